"""A forecast of how vectors bear being merged, before any merge: begin in forecast.py."""
