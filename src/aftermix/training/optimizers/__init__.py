"""Optimizers for experts that will be merged: MergeAware, and SAM and ASAM to compare it with."""

from aftermix.training.optimizers.merge_aware import MergeAware
from aftermix.training.optimizers.perturbed import PerturbedOptimizer
from aftermix.training.optimizers.sam import ASAM, SAM

__all__ = ["ASAM", "SAM", "MergeAware", "PerturbedOptimizer"]
