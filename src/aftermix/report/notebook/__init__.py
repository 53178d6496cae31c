"""Runs, scores and pools as the output of a notebook's cell shows them."""
