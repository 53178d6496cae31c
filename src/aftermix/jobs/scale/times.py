"""`PhaseTime`: seconds and GPU hours of each phase, from bytes over bandwidths and tokens over speeds.

A point is one evaluation of one merge by one engine: exchange of the weights, then prompts, then answers. The points of
a batch are measured side by side, and the next batch waits for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aftermix.config import HardwareConfig, Split
from aftermix.jobs.scale.setup import EngineSetup
from aftermix.jobs.scale.shape import ModelShape
from aftermix.jobs.scale.speeds import PlannedSpeeds
from aftermix.jobs.scale.work import SPLITS, Workload

HOUR_S = 3600


@dataclass(frozen=True)
class PointTime:
    """Seconds of one point on search items."""

    read_s: float
    """Base and vectors to the GPU, over the slowest of link, host memory and disk."""
    combine_s: float
    """Through the memory of the device, which does not overlap in the worst case."""
    score_s: float
    generate_s: float

    @property
    def swap_s(self) -> float:
        """Exchange of the weights."""
        return self.read_s + self.combine_s

    @property
    def seconds(self) -> float:
        """Of the point."""
        return self.swap_s + self.score_s + self.generate_s


@dataclass(frozen=True)
class PhaseTime:
    """One phase of the job."""

    phase: str
    seconds: float
    gpus: int
    """GPUs that are held while it lasts, in work or not."""
    words: str

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return self.gpus * self.seconds / HOUR_S


def time_point(setup: EngineSetup, split: Split = "search") -> PointTime:
    """Seconds of one point on the items of `split`."""
    hardware, work, layout, placement = setup.hardware, setup.work, setup.layout, setup.placement
    reached = 1e9 * hardware.speed.bandwidth_share
    on_cpu = hardware.engine.device == "cpu"
    memory = hardware.host.memory_gb_s if on_cpu else hardware.gpu.hbm_gb_s

    # All engines of a host exchange at once in the worst case, so they share its memory and its way to the disk.
    waits = [layout.engines_per_host * placement.disk_bytes / hardware.disk.gb_s]
    if not on_cpu:
        waits += [placement.read_bytes / hardware.gpu.link_gb_s, placement.stream_bytes / hardware.host.memory_gb_s]

    generated = work.count_generated(split)
    return PointTime(
        read_s=max(waits) / reached,
        combine_s=placement.traffic_bytes / memory / reached,
        score_s=work.count_scored(split) / (setup.speeds.score * layout.gpus),
        generate_s=generated / (setup.speeds.generate * layout.gpus) if generated else 0.0,
    )


def count_waves(points: int, *, batch: int, engines: int) -> int:
    """Rounds of points side by side: each batch takes as many as its points need on `engines`.

    >>> count_waves(100, batch=4, engines=8), count_waves(100, batch=16, engines=8), count_waves(5, batch=4, engines=2)
    (25, 13, 3)
    """
    whole, rest = divmod(points, batch)
    return whole * -(-batch // engines) + -(-rest // engines)


def time_training(hardware: HardwareConfig, work: Workload, speeds: PlannedSpeeds) -> Iterator[PhaseTime]:
    """All experts, one after another; nothing where none is trained."""
    if work.training:
        tokens = sum(work.training.values())
        words = f"{len(work.training)} experts, {tokens:,} tokens in all, one after another on all GPUs"
        yield PhaseTime("train", tokens / (speeds.train * hardware.gpus), hardware.gpus, words)


def time_measurements(setup: EngineSetup) -> Iterator[PhaseTime]:
    """Preparation, then the evaluations of each split; those on select and test items do not wait for each other."""
    work, engines = setup.work, setup.layout.engines
    yield time_preparation(setup)
    for split in SPLITS:
        count = work.measurements[split]
        waves = count_waves(count, batch=work.batch if split == "search" else max(count, 1), engines=engines)
        words = f"{count} merges x {work.items[split]:,} items, {waves} rounds on {engines} engines"
        yield PhaseTime(split, waves * time_point(setup, split).seconds, setup.hardware.gpus, words)


def time_preparation(setup: EngineSetup) -> PhaseTime:
    """Engines started and vectors prepared: each host reads base and vectors once, and writes what goes to scratch."""
    placement, hardware = setup.placement, setup.hardware
    count = setup.work.vectors + 1 if placement.prepared_bytes else 1
    written = placement.copies * placement.prepared_bytes if placement.place == "disk" else 0
    read, made = count * setup.shape.file_bytes, placement.copies * placement.prepared_bytes
    seconds = _time_files(hardware, read=read, written=written, made=made)
    words = "every host reads base and vectors once" if placement.prepared_bytes else "every host reads the base once"
    return PhaseTime("prepare", seconds, hardware.gpus, words + (" and writes its scratch file" if written else ""))


def time_merge(shape: ModelShape, hardware: HardwareConfig, work: Workload) -> Iterator[PhaseTime]:
    """The merge that is written, as fast as disk and cores; nothing where no vector is named."""
    if work.vectors:
        words = "base and vectors read, the model written, by one host without GPUs"
        seconds = _time_files(hardware, read=(work.vectors + 1) * shape.file_bytes, written=shape.file_bytes)
        yield PhaseTime("merge", seconds, 0, words)


def _time_files(hardware: HardwareConfig, *, read: int, written: int, made: int = 0) -> float:
    """Seconds of the disk, or those of the cores if longer, which take in `read` and leave `made` in memory."""
    disk_s = (read + written) / (hardware.disk.gb_s * 1e9 * hardware.speed.bandwidth_share)
    return max(disk_s, (read + made) / (hardware.host.merge_gb_s * 1e9))
