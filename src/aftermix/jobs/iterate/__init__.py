"""`aftermix iterate`: train, search or mix, merge, and train on from the merge."""
