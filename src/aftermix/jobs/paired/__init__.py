"""`aftermix compare`: a paired test of two runs, or of files of lm-eval."""
