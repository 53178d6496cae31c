"""Two sets of scores of the same documents."""
