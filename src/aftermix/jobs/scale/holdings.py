"""`Holding`: bytes of one thing in one phase, and the memory or disk that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from aftermix.config import HardwareConfig
from aftermix.jobs.scale.layout import GB
from aftermix.jobs.scale.setup import EngineSetup
from aftermix.jobs.scale.shape import ModelShape
from aftermix.jobs.scale.work import SPLITS, Workload
from aftermix.merging.blocks import BLOCK_ELEMENTS, LOOKAHEAD

Phase = Literal["train", "search", "merge"]
Memory = Literal["gpu", "host", "disk"]
CAPACITY_WORDS: dict[Memory, str] = {"gpu": "each GPU", "host": "each host", "disk": "disk"}

STATE_BYTES = 16
"""Of a parameter that is trained: weight, gradient and AdamW's two moments in float32, shared out over all GPUs."""
RESUME_BYTES = 12
"""Of a parameter in a resume point: weight and moments."""
GATHERED_BYTES = 4
"""Of a parameter of the layer that is gathered: weight and gradient in bfloat16."""
ACTIVATION_BYTES = 2
LOGIT_COPIES = 8
"""Bytes of a logit in training: it and its gradient in float32."""
LINE_BYTES, WEIGHT_BYTES, TASK_BYTES = 340, 26, 30
"""Of a line of the journal: its own, and those of each vector and task."""
SCORE_BYTES, SCORES_BYTES = 9, 18
"""Of an item's score in `items/`, and of a task's list of them."""
LIKELIHOOD_BYTES, HEADER_BYTES = 5, 150
"""Of a request: float32 and one byte; and of a task in the header of the file."""
ANSWER_BYTES = 2
"""Of a generated token, compressed."""
MERGE_THREADS = 16
"""Threads of a merge to disk that are assumed."""


@dataclass(frozen=True)
class Holding:
    """Bytes of `what`: on each GPU, on each host, or on disk in all."""

    phase: Phase
    place: Memory
    what: str
    nbytes: int
    elastic: bool = False
    """True for what gives way: pages of files, and the cache of all requests, of which fewer cost time."""


@dataclass(frozen=True)
class MemoryTotal:
    """Sum of the holdings of a phase in one place, and what the place has."""

    phase: Phase
    place: Memory
    nbytes: int
    capacity_bytes: int

    @property
    def share(self) -> float:
        """Of the capacity; above 1 it does not fit."""
        return self.nbytes / self.capacity_bytes


def list_training_holdings(shape: ModelShape, hardware: HardwareConfig, work: Workload) -> Iterator[Holding]:
    """Bytes of a training with sharded weights and state, without recomputed activations, a sequence a GPU at once."""
    if not work.training:
        return
    layer = max(shape.largest_layer, shape.largest_tensor)
    activations = ACTIVATION_BYTES * shape.widths * shape.layers * work.context
    yield Holding("train", "gpu", "weights, gradients, moments", STATE_BYTES * -(-shape.parameters // hardware.gpus))
    yield Holding("train", "gpu", "gathered layer", GATHERED_BYTES * layer)
    yield Holding("train", "gpu", "activations of one sequence", activations)
    yield Holding("train", "gpu", "logits of one sequence", LOGIT_COPIES * work.context * shape.vocabulary)

    count = len(work.training)
    yield Holding("train", "disk", "base", shape.file_bytes)
    yield Holding("train", "disk", "experts", count * shape.file_bytes)
    if work.vector_width:
        yield Holding("train", "disk", "vectors beside them", count * work.vector_width * shape.parameters)
    yield Holding("train", "disk", "one resume point", RESUME_BYTES * shape.parameters)


def list_search_holdings(setup: EngineSetup) -> Iterator[Holding]:
    """Bytes while merges are measured."""
    shape, work, layout, placement = setup.shape, setup.work, setup.layout, setup.placement
    yield Holding("search", "gpu", "engine weights", layout.weight_bytes)
    yield Holding("search", "gpu", f"KV cache of {layout.sequences} requests", layout.cache_bytes, elastic=True)
    yield Holding("search", "gpu", "activations and logits", layout.activation_bytes)
    if placement.place == "gpu":
        yield Holding("search", "gpu", "prepared vectors and base", placement.resident_bytes)

    if placement.place in ("gpu", "host"):
        what = f"prepared vectors, float32{f' x {placement.copies}' if placement.copies > 1 else ''}"
        yield Holding("search", "host", what, placement.copies * placement.prepared_bytes)
    pages = shape.file_bytes * (work.vectors + 1 if placement.place == "input" else 1)
    yield Holding("search", "host", "pages of checkpoints", pages, elastic=True)

    if placement.place == "disk":
        scratch = placement.copies * setup.hardware.hosts * placement.prepared_bytes
        yield Holding("search", "disk", "prepared vectors, float32 (scratch files)", scratch)
    yield Holding("search", "disk", "base", shape.file_bytes)
    yield Holding("search", "disk", "models of the vectors", work.vectors * shape.file_bytes)
    yield from _list_record_holdings(work)


def _list_record_holdings(work: Workload) -> Iterator[Holding]:
    """Files of the run that grow with the measurements."""
    line = LINE_BYTES + WEIGHT_BYTES * work.vectors + TASK_BYTES * work.tasks
    measured = [(work.measurements[split], split) for split in SPLITS]
    lists = work.tasks * sum(count for count, _ in measured)
    items = sum(count * work.items[split] for count, split in measured)
    requests = sum(count * work.count_requests(split) for count, split in measured)
    generated = sum(count * work.count_generated(split) for count, split in measured)
    journal = line * work.measurements["search"] + SCORE_BYTES * items + SCORES_BYTES * lists
    yield Holding("search", "disk", "journal and item scores", journal)
    kept = LIKELIHOOD_BYTES * requests + HEADER_BYTES * lists
    yield Holding("search", "disk", "kept log-likelihoods", kept)
    yield Holding("search", "disk", "kept answers", ANSWER_BYTES * generated)


def list_merge_holdings(shape: ModelShape, work: Workload) -> Iterator[Holding]:
    """Bytes of the merge that is written: a few blocks for each thread, whatever the model."""
    if not work.vectors:
        return
    stored = shape.file_bytes
    blocks = MERGE_THREADS * (LOOKAHEAD + work.vectors + 2)
    yield Holding("merge", "host", "blocks in work", 4 * min(BLOCK_ELEMENTS, shape.parameters) * blocks)
    yield Holding("merge", "host", "pages of checkpoints", (work.vectors + 1) * stored, elastic=True)
    yield Holding("merge", "disk", "base and models of the vectors", (work.vectors + 1) * stored)
    yield Holding("merge", "disk", "the merged model", stored)


def sum_holdings(holdings: Iterable[Holding], hardware: HardwareConfig) -> Iterator[MemoryTotal]:
    """Totals by phase and place, without what gives way."""
    capacity: dict[Memory, int] = {
        "gpu": int(hardware.gpu.memory_gb * GB),
        "host": int(hardware.host.memory_gb * GB),
        "disk": int(hardware.disk.free_gb * GB),
    }
    totals: dict[tuple[Phase, Memory], int] = {}
    for holding in holdings:
        if not holding.elastic:
            key = (holding.phase, holding.place)
            totals[key] = totals.get(key, 0) + holding.nbytes
    for (phase, place), nbytes in totals.items():
        yield MemoryTotal(phase, place, nbytes, capacity[place])
