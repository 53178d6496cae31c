"""`aftermix search`: begin in command.py."""
