"""Surrogates of capabilities over mixtures, and the regressors that they choose from."""
