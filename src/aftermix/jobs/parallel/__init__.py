"""Measurements that workers make: what they are told, what they open, and the crew as a run sees it."""
