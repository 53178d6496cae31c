"""`aftermix mixture --verify N`: begin in command.py."""
