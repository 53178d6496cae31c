"""Conversations as a tokenizer's chat template writes them, and which of their tokens are learnt."""
