"""Sequences shared out over steps, processes and micro-batches.

The sequences are taken in the order given. Step `s` takes the next `batch_size` of them, whatever the number of
processes `P` and of micro-batches `A`: they are cut into `P * A` equal runs, and process `p` works off the runs
`p * A ... p * A + A - 1` one after the other. So the same file trains the same expert on one process or on eight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aftermix.errors import TrainingError

FILLER = -1
"""Index of a sequence without a single label, for a process whose part of the last step is empty."""


@dataclass(frozen=True, kw_only=True)
class StepBatches(Sequence[list[int]]):
    """Indices of the sequences of each micro-batch of one process, in the order in which it works them off."""

    sequences: int
    batch_size: int
    """Sequences of one optimizer step, over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches of one step and process."""
    processes: int = 1
    process: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.parts:
            found = f"{self.batch_size} sequences cannot be shared out evenly over {self.processes} processes"
            found += f" with {self.accumulation} micro-batches each"
            raise TrainingError("train.batch_size", found, f"Use a multiple of {self.parts}, or lower `accumulation`.")

    @property
    def parts(self) -> int:
        """Micro-batches of one step over all processes."""
        return self.accumulation * self.processes

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return -(-self.sequences // self.batch_size)

    @property
    def micro_batch_size(self) -> int:
        """Sequences that go through the model at a time."""
        return self.batch_size // self.parts

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)

        step, micro = divmod(index, self.accumulation)
        run = self.process * self.accumulation + micro
        first = step * self.batch_size + run * self.micro_batch_size

        # The last step may be smaller, even empty for some processes.
        indices = range(first, min(first + self.micro_batch_size, self.sequences))
        return list(indices) or [FILLER]

    def __iter__(self) -> Iterator[list[int]]:
        return (self[index] for index in range(len(self)))
