"""Results of runs as tables in the terminal."""
