"""`aftermix mixture`: begin in command.py; over a tree of domains in tree.py."""
