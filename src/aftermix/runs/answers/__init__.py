"""Answers of candidates, request by request: log-likelihoods, greedy or not, generated texts, and what they answer."""
