"""Documents that are never trained on, and the loss on them while a training goes on: begin in split.py."""
