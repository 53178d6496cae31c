"""Answers that a run keeps: which requests of a task they are of, and what their log-likelihoods decide."""
