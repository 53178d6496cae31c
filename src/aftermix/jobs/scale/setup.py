"""`EngineSetup`: all that the phases with a living engine are computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from aftermix.config import HardwareConfig
from aftermix.jobs.scale.layout import EngineLayout
from aftermix.jobs.scale.placement import VectorPlacement, place_vectors
from aftermix.jobs.scale.shape import ModelShape
from aftermix.jobs.scale.speeds import PlannedSpeeds
from aftermix.jobs.scale.work import Workload


@dataclass(frozen=True)
class EngineSetup:
    """A search or a mixture on engines that stay alive."""

    shape: ModelShape
    hardware: HardwareConfig
    work: Workload
    layout: EngineLayout
    speeds: PlannedSpeeds
    prepares: bool
    """False where a searched setting changes what vectors keep, so that every merge reads the checkpoints."""

    @cached_property
    def placement(self) -> VectorPlacement:
        """The prepared vectors, and what a merge reads of them."""
        return place_vectors(self.shape, self.hardware, self.layout, vectors=self.work.vectors, prepares=self.prepares)

    def with_vectors(self, count: int) -> EngineSetup:
        """The same with another number of vectors."""
        return replace(self, work=replace(self.work, vectors=count))
