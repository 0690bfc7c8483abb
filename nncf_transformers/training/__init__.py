"""Training in stages on accelerate: answers, embeddings, and models packed to fewer layers and a smaller width."""
