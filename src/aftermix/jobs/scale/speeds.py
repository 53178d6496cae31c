"""`PlannedSpeeds`: tokens a second of one GPU, stated by the user or from bandwidth and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from aftermix.config import HardwareConfig
from aftermix.jobs.scale.layout import EngineLayout
from aftermix.jobs.scale.shape import ModelShape
from aftermix.jobs.scale.work import Workload

TERA = 1e12
FORWARD, TRAINING = 2, 6
"""Operations of a token for each parameter that it is multiplied with: forward; forward and backward."""


@dataclass(frozen=True)
class PlannedSpeeds:
    """Tokens a second of one GPU."""

    score: float
    generate: float
    """0 where no engine is planned."""
    train: float
    stated: tuple[str, ...]
    """Names of those that the user measured."""


def plan_speeds(
    shape: ModelShape, hardware: HardwareConfig, work: Workload, layout: EngineLayout | None
) -> PlannedSpeeds:
    """Take the stated speeds, and derive the others.

    Scoring and training: `tflops x share / (2 or 6 x parameters that a token is multiplied with)`. Generating B
    requests together: B tokens in the longer of two times, that of reading the weights which they meet and their
    caches, and that of the arithmetic.
    """
    speed = hardware.speed
    operations = hardware.gpu.tflops * TERA * speed.arithmetic_share
    derived = {
        "score": operations / (FORWARD * shape.multiplied),
        "generate": _derive_generation(shape, hardware, work, layout) if layout is not None else 0.0,
        "train": operations / (TRAINING * shape.multiplied),
    }
    stated = {name: value for name in derived if (value := getattr(speed, name)) is not None}
    return PlannedSpeeds(**(derived | stated), stated=tuple(stated))


def _derive_generation(shape: ModelShape, hardware: HardwareConfig, work: Workload, layout: EngineLayout) -> float:
    count = max(1, layout.sequences)
    context = work.request_tokens - work.generated_tokens // 2
    cache = count * shape.cache_bytes(context, gpus=layout.gpus, width=layout.width)
    read = layout.width * shape.met_parameters(count) / layout.gpus + cache

    speed = hardware.speed
    reading_s = read / (hardware.gpu.hbm_gb_s * 1e9 * speed.bandwidth_share)
    operations = hardware.gpu.tflops * TERA * speed.arithmetic_share * layout.gpus
    arithmetic_s = FORWARD * shape.multiplied * count / operations
    return count / max(reading_s, arithmetic_s) / layout.gpus
