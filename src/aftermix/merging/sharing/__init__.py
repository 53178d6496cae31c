"""Prepared vectors that several processes of one machine have in common."""
