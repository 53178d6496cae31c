"""Data of a training: read, tokenised, packed and mixed."""
