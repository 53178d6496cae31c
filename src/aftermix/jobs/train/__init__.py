"""`aftermix train`: begin in command.py."""
