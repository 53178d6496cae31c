"""`aftermix merge`: begin in command.py."""
