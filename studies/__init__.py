"""Studies that re-test the papers' claims at small scale on real text."""
