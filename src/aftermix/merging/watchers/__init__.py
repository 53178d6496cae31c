"""Whoever counts or checks while a merge runs: each is shown every block of it."""
