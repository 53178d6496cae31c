"""A plan's passes cut into blocks: by the positions that they compute, which the requests and the batch size decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from aftermix.runs.answers.blocks import Arrays, BlockJournal, MakeArrays, PlanHash, find_journal

BLOCKS = 20
"""Blocks of a plan that has enough passes."""


@dataclass(frozen=True)
class PlanBlocks:
    """The blocks of one plan, and those of them that an evaluation before this one has finished."""

    blocks: tuple[range, ...]
    """Passes of each."""
    plan: PlanHash
    engine: str
    """The device, type, threads and versions that compute them, in words."""
    journal: BlockJournal | None

    @staticmethod
    def open(positions: Sequence[int], plan: PlanHash, *, engine: str) -> PlanBlocks:
        """Cut passes of so many `positions` into blocks, in the journal of the evaluation under way if there is one."""
        return PlanBlocks(tuple(cut_blocks(positions)), plan, engine, find_journal())

    def find(self, number: int) -> Arrays | None:
        """The answers of a block, where they are there."""
        return self.journal.find(self.plan, number, engine=self.engine) if self.journal is not None else None

    def keep(self, number: int, arrays: MakeArrays) -> None:
        """Keep the answers of a block that has ended."""
        if self.journal is not None:
            self.journal.keep(self.plan, number, arrays, engine=self.engine)


def cut_blocks(positions: Sequence[int]) -> Iterator[range]:
    """Runs of consecutive passes, each of about a twentieth of all positions, and of one pass at least.

    >>> [list(block) for block in cut_blocks([30, 1, 1, 1, 1, 6])]
    [[0], [1, 2], [3, 4], [5]]
    """
    total, start, done, place = sum(positions), 0, 0, 0
    for number, size in enumerate(positions):
        if number > start and done * BLOCKS // total != place:
            yield range(start, number)
            start = number
        if number == start:
            place = done * BLOCKS // total
        done += size
    if positions:
        yield range(start, len(positions))


def hash_plan(value: Any) -> str:
    """Hexadecimal digits of the content of a plan: of all tensors and numbers in its dataclasses."""
    digest = hashlib.sha256()
    for part in _list_parts(value):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _list_parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.cpu().numpy().tobytes()
    elif isinstance(value, tuple) and value and not isinstance(value[0], int | float | str):
        yield str(len(value)).encode()
        for part in value:
            yield from _list_parts(part)
    elif hasattr(value, "__dataclass_fields__"):
        yield type(value).__name__.encode()
        for field in fields(value):
            yield from _list_parts(getattr(value, field.name))
    else:
        yield repr(value).encode()
