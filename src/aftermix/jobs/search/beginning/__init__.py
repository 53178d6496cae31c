"""The beginning of a run: a folder that is taken already, trials that are asked for."""
