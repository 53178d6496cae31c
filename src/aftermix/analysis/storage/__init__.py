"""Losses of a vector whose expert is stored in a type of few bits: begin in rounding.py."""
