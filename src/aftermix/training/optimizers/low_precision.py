"""Weights of few bits that stay where they are: a move below half a unit in the last place is rounded away."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch

LOW_PRECISION = (torch.bfloat16, torch.float16)
TOLD_ABOVE = {"perturbation": 0.05, "update": 0.5}
"""Share of weights that stay, above which it is told, by what should have moved them.

A lost part of the noise makes another regime than was asked for; steps of few bits are lost for most weights in any
training near its end.
"""


@dataclass
class StillWeights:
    """Count of the weights of few bits that should have moved in one step, and of those that did not."""

    _told: set[str] = field(default_factory=set)
    _should: dict[str, int] = field(default_factory=dict)
    _still: dict[str, int] = field(default_factory=dict)

    def is_watched(self, kind: str, weights: torch.Tensor) -> bool:
        """True for weights whose moves of this `kind` may be lost, as long as nothing has been told of it."""
        return weights.dtype in LOW_PRECISION and kind not in self._told

    def count(self, kind: str, before: torch.Tensor, after: torch.Tensor, *, meant: torch.Tensor | None = None) -> None:
        """Take one tensor in; `meant` marks the weights that should have moved (default: all)."""
        still = before == after
        self._should[kind] = self._should.get(kind, 0) + (before.numel() if meant is None else int(meant.sum()))
        self._still[kind] = self._still.get(kind, 0) + int((still if meant is None else still & meant).sum())

    def tell(self, kind: str, *, step: int, cause: str, remedy: str) -> None:
        """Warn, once for each `kind`, when too much of what was counted did not move; begin a new count."""
        should, still = self._should.pop(kind, 0), self._still.pop(kind, 0)
        if should and still > TOLD_ABOVE[kind] * should:
            self._told.add(kind)
            share = f"{still / should:.0%} of the weights in bfloat16 or float16 did not move in step {step}"
            warnings.warn(f"{share}: {cause} is below half a unit in their last place. {remedy}", stacklevel=2)
