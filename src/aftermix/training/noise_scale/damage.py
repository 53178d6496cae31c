"""The scale of noise by its damage: what adding it once to the base's weights raises the base's loss by.

A scale in units of the weights means nothing by itself: 5e-4 is the size of a vector of a large model at a low rate,
and costs a small model trained at a high rate nothing at all. The rise of the loss is in nats a token for every model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aftermix.errors import TrainingError
from aftermix.seeds import derived_seed
from aftermix.training.data.collate import TokenSequence
from aftermix.training.held_out.curve import measure_loss
from aftermix.training.optimizers.folded_weight import find_folded_weights
from aftermix.training.optimizers.merge_aware import Distribution, MergeAware

DRAWS = 2
"""Draws of noise that the rise is a mean over; the same ones at every scale."""
MOST_DOUBLINGS = 40
HALVINGS = 7
"""Halvings, on a logarithmic scale, of a bracket of a factor 2: the scale is found to half a percent."""
FIRST_SHARE = 0.05
"""Scale that is tried first, as a share of the root mean square of the weights that move."""


@dataclass(frozen=True)
class DamageScale:
    """A scale that was found, and what noise of that scale costs."""

    scale: float
    """To three digits, so that rounding on another machine finds the same."""
    rise: float
    """Nats a token that noise of this scale raises the loss by."""
    loss: float
    """Nats a token of the model as it is."""
    tokens: int
    """Tokens that both are measured on."""


@dataclass(frozen=True)
class DamageMeter:
    """Measurement of the loss of `model` under noise of any scale, on the same rows and with the same draws.

    What moves is what :class:`MergeAware` would move: trainable parameters, folded weights in the place of adapters,
    nothing that a pattern of `exclude` means.
    """

    model: Any
    rows: Sequence[TokenSequence]
    batch_size: int
    seed: int
    distribution: Distribution = "laplace"
    exclude: Sequence[str] = ()

    def measure_loss(self, scale: float) -> float:
        """Mean loss over the draws at `theta + z`; of the model as it is for a scale of 0."""
        if scale == 0:
            return measure_loss(self.model, self.rows, self.batch_size)
        return sum(self._measure_draw(scale, number) for number in range(DRAWS)) / DRAWS

    def _measure_draw(self, scale: float, number: int) -> float:
        with self._build_optimizer(scale, number).perturbed():
            return measure_loss(self.model, self.rows, self.batch_size)

    def _build_optimizer(self, scale: float, number: int) -> MergeAware:
        """An optimizer that never steps, whose one move adds the noise once: `K a - 1 = 1`."""
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return MergeAware(
            torch.optim.SGD(trainable, lr=0.0),
            scale=scale,
            coefficients=(2.0,),
            max_experts=1,
            distribution=self.distribution,
            exclude=self.exclude,
            seed=derived_seed(self.seed, "damage", number),
            named_parameters=self.model.named_parameters(),
            folded=find_folded_weights(self.model),
        )

    def measure_weights(self) -> float:
        """Root mean square of the weights that move."""
        moved = [tensor.detach().double() for _, tensor in self._build_optimizer(0.0, 0).iterate_moved()]
        count = sum(tensor.numel() for tensor in moved)
        return math.sqrt(sum(float(tensor.square().sum()) for tensor in moved) / count) if count else 0.0


def find_damage_scale(
    meter: DamageMeter, damage: float, *, after_measurement: Callable[[], object] = lambda: None
) -> DamageScale:
    """Find the scale of noise that raises the loss by `damage` nats a token, by bisection.

    `after_measurement` is called after each loss. Raises :class:`TrainingError` where the loss is no number, and
    where no noise raises it by so much: that model has learnt too little of that text.
    """
    was_training = meter.model.training
    meter.model.eval()
    try:
        with torch.no_grad():
            return _find_scale(meter, damage, after_measurement)
    finally:
        meter.model.train(was_training)


def _find_scale(meter: DamageMeter, damage: float, after_measurement: Callable[[], object]) -> DamageScale:
    loss = meter.measure_loss(0.0)
    if not math.isfinite(loss):
        raise TrainingError("train.optimizer.scale", f"the base's loss is {loss}", "Check base and data for NaN.")

    def measure_rise(scale: float) -> float:
        rise = meter.measure_loss(scale) - loss
        after_measurement()
        return rise if math.isfinite(rise) else math.inf

    low, high = _find_bracket(measure_rise, damage, first=FIRST_SHARE * meter.measure_weights() or FIRST_SHARE)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if measure_rise(middle) < damage else (low, middle)

    scale = float(f"{math.sqrt(low * high):.3g}")
    return DamageScale(scale, measure_rise(scale), loss, sum(map(len, meter.rows)))


def _find_bracket(measure_rise: Callable[[float], float], damage: float, *, first: float) -> tuple[float, float]:
    """A scale whose rise is below `damage`, and twice that scale, whose rise is not."""
    scale, highest = first, -math.inf
    if measure_rise(scale) >= damage:
        for _ in range(MOST_DOUBLINGS):
            scale /= 2
            if measure_rise(scale) < damage:
                return scale, 2 * scale
    else:
        for _ in range(MOST_DOUBLINGS):
            scale *= 2
            rise = measure_rise(scale)
            if rise >= damage:
                return scale / 2, scale
            highest = max(highest, rise)

    found = f"no noise raises the base's loss by {damage:g} nats a token (by {highest:.3g} at most)"
    remedy = "Name text that the base knows as `data`, or ask for another `damage`."
    raise TrainingError("train.optimizer.scale", found, remedy)
