"""`aftermix doctor`: begin in command.py."""
