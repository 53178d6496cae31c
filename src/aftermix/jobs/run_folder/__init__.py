"""The folder of a run: made or reopened in opening.py, settled in settling.py, compared in comparison.py."""
