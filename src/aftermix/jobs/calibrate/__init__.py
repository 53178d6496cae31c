"""`aftermix calibrate`: begin in command.py."""
