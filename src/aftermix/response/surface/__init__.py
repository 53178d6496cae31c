"""Gaussian processes over merges: kernel, fit, factorisation."""
