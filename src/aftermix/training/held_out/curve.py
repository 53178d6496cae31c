"""The loss on held-out documents at points of a training: before it, along it, and at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aftermix.errors import RunFailedError
from aftermix.training.data.collate import IGNORED, TokenSequence, collate
from aftermix.training.distributed.processes import reshard_modules

MOST_POINTS, FEWEST_POINTS = 20, 4
"""Points after the first, of which the last is the end."""
EVALUATED_SHARE = 1 / 3
"""Most tokens that all points take, as a share of those that are trained on: a ninth of the time of the training."""


@dataclass(frozen=True)
class HeldOutPoint:
    """Losses on held-out documents after `step` steps, in nats a token."""

    step: int
    loss: float
    """Of all domains, each weighted by its share in the training."""
    domains: Mapping[str, float]


def plan_points(steps: int, *, trained_tokens: int, held_tokens: int) -> frozenset[int]:
    """Numbers of steps after which the loss is measured: 0, evenly spaced ones, and the last.

    >>> sorted(plan_points(10, trained_tokens=10_000, held_tokens=1000))
    [0, 3, 5, 8, 10]
    """
    affordable = int(EVALUATED_SHARE * trained_tokens / max(held_tokens, 1))
    count = min(max(affordable, FEWEST_POINTS), MOST_POINTS, steps)
    return frozenset({0, *((2 * steps * point + count) // (2 * count) for point in range(1, count + 1))})


@dataclass
class HeldOutCurve:
    """Held-out sequences of each domain, and the losses on them as they are measured."""

    sequences: Mapping[str, Sequence[TokenSequence]]
    shares: Mapping[str, float]
    """By domain, its share of the trained tokens; they add up to 1."""
    due: frozenset[int]
    batch_size: int
    """Sequences of a forward pass."""
    measured: list[HeldOutPoint] = field(default_factory=list)
    after_point: Callable[[Sequence[float]], None] | None = None
    """Called after each point with the losses of the steps so far, on every process."""

    def measure_if_due(self, model: Any, losses: Sequence[float]) -> None:
        """Measure `model` after the steps with `losses`, where that is due and not done; weights and streams stay.

        Every process must call it. Raises :class:`RunFailedError` for a loss that is no number.
        """
        step = len(losses)
        if step not in self.due or any(point.step == step for point in self.measured):
            return
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                domains = {name: self._average_loss(model, rows) for name, rows in self.sequences.items()}
        finally:
            reshard_modules(model)
            model.train(was_training)

        total = sum(self.shares[name] for name in domains)
        loss = sum(self.shares[name] * domains[name] for name in domains) / total
        self.measured.append(HeldOutPoint(step, loss, domains))
        if self.after_point is not None:
            self.after_point(losses)

    def _average_loss(self, model: Any, rows: Sequence[TokenSequence]) -> float:
        loss = measure_loss(model, rows, self.batch_size)
        if not math.isfinite(loss):
            remedy = "Lower the learning rate, and check base and data for NaN; other settings need another folder."
            raise RunFailedError("held-out documents", f"the loss is {loss}", remedy)
        return loss


def measure_loss(model: Any, rows: Sequence[TokenSequence], batch_size: int) -> float:
    """Mean loss of the tokens of `rows` that are predicted, in nats; NaN where none is.

    `model` is taken as it is: the caller sets it to evaluate, and takes no gradient.
    """
    place = next(model.parameters()).device
    total, predicted = 0.0, 0
    for start in range(0, len(rows), batch_size):
        batch = {name: value.to(place) for name, value in collate(rows[start : start + batch_size]).items()}
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        if count:
            total += float(model(**batch).loss) * count
            predicted += count
    return total / predicted if predicted else float("nan")
