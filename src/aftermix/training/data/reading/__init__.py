"""The files of a folder that are read, and a look at their bytes before that."""
