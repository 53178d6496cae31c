"""Rules of merging: what a vector keeps (intra), how kept vectors combine (inter), and methods that stand alone."""
