"""Trainers that take a mixture as a part of their own configuration: one file a trainer, as in the folder above."""
