"""The plan from a configuration alone: bytes, seconds and GPU hours by arithmetic, without a weight."""
