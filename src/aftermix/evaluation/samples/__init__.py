"""Documents with their scores: of runs, and of files that lm-eval leaves."""
