"""The published tables, made again: figures, scales, steps, judging, results."""
