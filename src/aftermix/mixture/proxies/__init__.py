"""Proxies for trained mixtures, from no merge at all to all merges, and what they are worth."""
