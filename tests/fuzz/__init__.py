"""Hostile input: one target for every reader, one oracle for all, a coverage-guided run of them."""
