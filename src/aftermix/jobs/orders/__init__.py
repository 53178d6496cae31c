"""Merges as orders: words of what is to be merged, which the engine's own processes can carry out as well."""
