"""Evaluations in blocks, so that one that is stopped loses the block it was at and no other."""
