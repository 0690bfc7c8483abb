"""Finding the passages that answer a question by the distance of their vectors."""
