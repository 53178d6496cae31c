"""Commands beyond the public names, as functions with typed results, and the text of these."""
