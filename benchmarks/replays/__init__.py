"""Searches replayed on a pool of recorded merges: a strategy sees some documents, and is judged by the others."""
