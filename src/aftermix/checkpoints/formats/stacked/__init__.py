"""Blocks of one model, stacked anew."""
