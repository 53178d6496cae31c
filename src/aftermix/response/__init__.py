"""The response of all items to the merge weights: one process through a dozen measured merges, and what it tells."""
