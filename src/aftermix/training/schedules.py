"""Learning-rate schedules: the names that a recipe uses, and what the Trainer needs to make them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from aftermix.errors import TrainingError

Schedule = Literal["cosine", "constant", "wsd"]
DecayShape = Literal["linear", "cosine", "1-sqrt"]

SCHEDULES = {"cosine": "cosine_with_min_lr", "constant": "constant_with_warmup", "wsd": "warmup_stable_decay"}
"""Our names of the schedules, and the Trainer's."""


def count_decay_steps(steps: int, share: float) -> int:
    """Steps of the decay of `wsd`: `share` of the run, rounded, at least one.

    >>> count_decay_steps(200, 0.1), count_decay_steps(3, 0.1)
    (20, 1)
    """
    return max(1, round(steps * share))


def build_schedule_options(
    schedule: str, *, steps: int, min_lr_rate: float, decay_share: float, decay_shape: str
) -> dict[str, Any]:
    """The options of the Trainer's schedule.

    Every schedule begins with `warmup_steps` of linear warm-up. `constant` stays at the peak; `cosine` falls over all
    other steps, `wsd` over its last `decay_share`, both to `min_lr_rate` of the peak. With `p` from 0 to 1 over the
    decay, `wsd` is at `m + (1 - m) f(p)` of the peak, `m` being `min_lr_rate` and `f` `1 - p`, `(1 + cos(pi p)) / 2` or
    `1 - sqrt(p)`. It warms up from `m` too.
    """
    if schedule == "cosine":
        return {"min_lr_rate": min_lr_rate}
    if schedule == "wsd":
        decay = count_decay_steps(steps, decay_share)
        return {"num_decay_steps": decay, "decay_type": decay_shape, "min_lr_ratio": min_lr_rate}
    return {}


def compute_mean_factor(
    schedule: str, *, steps: int, warmup_steps: int, min_lr_rate: float, decay_share: float, decay_shape: str
) -> float:
    """Mean over all `steps` of the rate over its peak.

    >>> compute_mean_factor("constant", steps=4, warmup_steps=2, min_lr_rate=0, decay_share=0.1, decay_shape="linear")
    0.625
    """
    refuse_unknown_schedule(schedule)
    decay = count_decay_steps(steps, decay_share) if schedule == "wsd" else steps - warmup_steps
    step_S = np.arange(steps)
    start = warmup_steps if schedule == "cosine" else steps - decay
    place_S = np.clip((step_S - start) / max(1, decay), 0.0, 1.0)

    shape = {"constant": "none", "cosine": "cosine"}.get(schedule, decay_shape)
    shapes = {"none": np.ones(steps), "linear": 1 - place_S, "1-sqrt": 1 - np.sqrt(place_S)}
    shapes["cosine"] = (1 + np.cos(np.pi * place_S)) / 2
    least = 0.0 if schedule == "constant" else min_lr_rate
    factor_S = least + (1 - least) * shapes[shape]

    rising_S = step_S / max(1, warmup_steps)
    warming_S = least + (1 - least) * rising_S if schedule == "wsd" else rising_S
    return float(np.where(step_S < warmup_steps, warming_S, factor_S).mean())


def refuse_unknown_schedule(schedule: str) -> None:
    """Raise :class:`TrainingError` for a schedule that is not ours."""
    if schedule not in SCHEDULES:
        found = f"unknown schedule '{schedule}'"
        raise TrainingError("train.schedule", found, f"Use one of: {', '.join(SCHEDULES)}.")


def refuse_too_few_steps(schedule: str, *, steps: int, warmup_steps: int, decay_share: float) -> None:
    """Raise :class:`TrainingError` when warm-up, or warm-up and decay, leave no other step."""
    if warmup_steps >= steps:
        found = f"{warmup_steps} steps of warm-up, but the run has {steps} steps"
        raise TrainingError("train.warmup_steps", found, "Lower it, or train on more tokens.")

    decay = count_decay_steps(steps, decay_share)
    if schedule == "wsd" and warmup_steps + decay > steps:
        found = f"{warmup_steps} steps of warm-up and {decay} of decay, but the run has {steps} steps"
        raise TrainingError("train.decay_share", found, "Lower it or `warmup_steps`, or train on more tokens.")
