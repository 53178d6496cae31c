"""`aftermix init`: a first file, from what is in the folders."""
