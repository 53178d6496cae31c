"""The run folder: one typed record for every file in it, written and read by the same class."""
