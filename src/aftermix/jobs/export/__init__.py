"""`aftermix export`: recipes in command.py, data mixtures in mixture.py."""
