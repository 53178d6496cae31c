"""Sections of the file on jobs in a row."""
