"""`track:` of the file."""
