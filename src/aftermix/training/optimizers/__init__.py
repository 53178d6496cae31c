"""Optimizers for experts that will be merged: MergeAware, and SAM and ASAM to compare it with."""

from aftermix.training.optimizers.merge_aware import MergeAware
from aftermix.training.optimizers.perturbed import MovedWeights
from aftermix.training.optimizers.sam import ASAM, SAM

__all__ = ["ASAM", "SAM", "MergeAware", "MovedWeights"]
