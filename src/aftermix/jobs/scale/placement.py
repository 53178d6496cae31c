"""`VectorPlacement`: the memory that prepared vectors lie in, and the bytes that one merge reads from it.

The rules are the product's own: `merging.prepared` for host memory and scratch file, `merging.prepared_gpu` for what is
resident on a GPU. P parameters that move, N vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aftermix.config import HardwareConfig
from aftermix.jobs.scale.layout import GB, LEAST_SEQUENCES, EngineLayout
from aftermix.jobs.scale.shape import ModelShape
from aftermix.merging.prepared import MEMORY_SHARE
from aftermix.merging.prepared_gpu import SPARE_SHARE

PREPARED_BYTES = 4
"""Bytes of a kept number: float32, the working type."""
PASS_BYTES = 12
"""Traffic of one vector in a combination on a GPU, per number: kept and sum read, sum written, all float32."""
RESULT_BYTES = 12
"""The same of base and result: both read or written, and widened once."""

Place = Literal["gpu", "host", "disk", "input"]
"""`input`: nothing is prepared, every merge reads the checkpoints."""


@dataclass(frozen=True)
class VectorPlacement:
    """Prepared vectors of one host."""

    place: Place
    prepared_bytes: int
    """One copy of all: 4 N P."""
    copies: int
    """On a host."""
    read_bytes: int
    """Taken in by one GPU for a merge, base included: `(4 N + stored) P`, or its slice of that; 0 where resident."""
    disk_bytes: int
    """Read from disk by one engine for a merge."""
    traffic_bytes: int
    """Through the memory of the device that combines."""
    stream_bytes: int
    """Through host memory for all engines of a host at once."""
    resident_bytes: int
    """Vectors and base on one GPU; 0 where they are not."""


def place_vectors(
    shape: ModelShape, hardware: HardwareConfig, layout: EngineLayout, *, vectors: int, prepares: bool
) -> VectorPlacement:
    """Place `vectors` that are prepared once, or (`prepares` false) read anew by every merge."""
    on_cpu = hardware.engine.device == "cpu"
    sliced = hardware.engine.swap == "sliced" and not on_cpu
    width = PREPARED_BYTES * vectors + shape.stored_bytes if prepares else (vectors + 1) * shape.stored_bytes
    read = width * shape.moved // (layout.gpus if sliced else 1)

    prepared = PREPARED_BYTES * vectors * shape.moved if prepares else 0
    copies = 1 if hardware.engine.vectors_per == "host" else layout.engines_per_host
    place = _choose_place(hardware, layout, prepared=prepared, read=read, copies=copies)
    taken = read // width
    read, resident = (0, read) if place == "gpu" else (read, 0)
    return VectorPlacement(
        place=place,
        prepared_bytes=prepared,
        copies=copies if prepares else 0,
        read_bytes=read,
        disk_bytes=_count_disk_bytes(shape, hardware, place, prepared=prepared, vectors=vectors),
        traffic_bytes=(width + layout.width) * shape.moved if on_cpu else _count_traffic(taken, vectors),
        stream_bytes=layout.engines_per_host * layout.gpus * read,
        resident_bytes=resident,
    )


def _choose_place(hardware: HardwareConfig, layout: EngineLayout, *, prepared: int, read: int, copies: int) -> Place:
    if not prepared:
        return "input"

    # Resident on a GPU only where the requests of an evaluation still find room beside it.
    room = layout.free_bytes - LEAST_SEQUENCES * layout.sequence_bytes
    if hardware.engine.device == "cuda" and read <= room * (1 - SPARE_SHARE):
        return "gpu"
    return "host" if copies * prepared <= MEMORY_SHARE * hardware.host.memory_gb * GB else "disk"


def _count_disk_bytes(shape: ModelShape, hardware: HardwareConfig, place: Place, *, prepared: int, vectors: int) -> int:
    """Bytes of a merge that no memory holds: a scratch file, or checkpoints larger than what the system can cache."""
    if place == "disk":
        return prepared
    inputs = (vectors + 1) * shape.file_bytes
    return inputs if place == "input" and inputs > MEMORY_SHARE * hardware.host.memory_gb * GB else 0


def _count_traffic(numbers: int, vectors: int) -> int:
    """Bytes that one GPU moves to combine `numbers` of each vector."""
    return numbers * (PASS_BYTES * vectors + RESULT_BYTES)
