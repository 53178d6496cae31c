"""Merging as pure functions: what each vector keeps (intra), how kept vectors combine (inter), and rows of the two."""
