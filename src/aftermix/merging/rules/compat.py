"""Defaults of another tool, by rule: what `compat` sets, and which rules are alike."""

from __future__ import annotations

from typing import Any

from aftermix.merging.rules.inter import disjoint_mean, weighted_mean, weighted_sum
from aftermix.merging.rules.intra import band, keep_all, magnitude, magnitude_sampled, random_rescale
from aftermix.merging.rules.kinds import Rule
from aftermix.merging.rules.model_stock import model_stock
from aftermix.merging.rules.sce import sce
from aftermix.merging.rules.spherical import karcher, nuslerp, slerp

COMPAT: dict[str, dict[Rule, dict[str, Any]]] = {
    "mergekit": {
        keep_all: {},
        magnitude: {"density": 1.0},
        random_rescale: {"rescale": "l1"},
        weighted_sum: {},
        weighted_mean: {},
        disjoint_mean: {"divisor": "signed"},
        slerp: {},
        karcher: {},
        model_stock: {},
        nuslerp: {},
        sce: {},
        band: {"density": 1.0, "gamma": 0.01, "excess": "gamma"},
        magnitude_sampled: {"density": 1.0, "epsilon": 0.15, "rescale": "l1"},
    },
}
"""By tool, the rules that are alike and its defaults for them (mergekit 0.1.5; docs/methods.md has what is left)."""

COMPAT_METHODS: dict[str, dict[str, dict[str, Any]]] = {"mergekit": {"breadcrumbs_ties": {"normalize": False}}}
"""The same by method, where the tool's default of a rule is not the same in all its methods."""
