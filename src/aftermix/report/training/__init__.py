"""The page of a training: begin in page.py."""
