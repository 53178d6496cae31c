"""`aftermix plan`: begin in command.py."""
