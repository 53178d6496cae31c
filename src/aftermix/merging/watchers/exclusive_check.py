"""A second look at an exclusive merge while it runs: no position from two vectors, every value and count as it must be.

Each block is computed again by a plainer way: which positions a pruner lets through is found by giving it ones, and the
values are those of one vector at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock

import torch

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.errors import MergeError
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import Weights
from aftermix.merging.temporaries import widen
from aftermix.merging.topk.magnitude import count_share
from aftermix.merging.watchers.merged_block import MergedBlock

REPORT = "This is a fault of aftermix, not of your models: please report it with the recipe."

Masks = dict[str, torch.Tensor]
"""By vector, which positions of a block it lets through."""


@dataclass
class ExclusiveCheck:
    """Shown every block of a merge, raises :class:`MergeError` at the first that is not exclusive.

    - At most one vector lets any position through, those of weight 0 included.
    - A position's value is that of its vector alone, `base + lambda * (w_k * delta_k)` rounded once, or the base's; to
      the bit, but for the sign of a zero.
    - Vector k has `floor(n_k * d)` positions of a tensor of d elements.
    """

    merger: Merger
    weights: Weights
    tensors: int = 0
    """Tensors that were seen to the end."""
    elements: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _counts: dict[str, Counter[str]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        method = self.merger.recipe.method
        if not method.is_exclusive:
            found = f"{method.name} shares no positions out, there is nothing to check"
            raise MergeError("--check", found, "Leave it out, or use an exclusive method such as obim.")

    def __call__(self, block: MergedBlock) -> None:
        """Check one block."""
        start, end = block.span
        masks = {v: pruner(torch.ones(end - start), start) != 0 for v, pruner in block.pruners.items()}
        refuse_overlap(block.info.name, block.span, masks)
        self._refuse_other_values(block, masks)
        self._add_counts(block.info, block.span, masks)

    def summarise(self) -> str:
        """Report of what was looked at, on one line."""
        tensors = f"{self.tensors:,} tensor{'' if self.tensors == 1 else 's'}"
        return f"Checked: {tensors}, {self.elements:,} positions, none from two vectors"

    def _refuse_other_values(self, block: MergedBlock, masks: Masks) -> None:
        info, span = block.info, block.span
        base, weights = widen(self.merger.pool.read_base_block(info.name, span)), self.merger.weigh(info, self.weights)

        # One vector at a time, as if the others were not there.
        expected = base
        for vector, mask in masks.items():
            alone = self.merger.read_operand(info, vector, span, base=base) * weights.get(vector, 0.0)
            moved = torch.add(base, alone, alpha=self.merger.recipe.scale)
            expected = torch.where(mask, moved, expected)

        # Compared as numbers: zeros of either sign are equal.
        wrong = (expected.to(block.merged.dtype) != block.merged).nonzero()
        if len(wrong):
            index = int(wrong[0])
            owner = next((f"vector '{v}' alone" for v, mask in masks.items() if mask[index]), "the base")
            found = f"entry {span[0] + index} is {float(block.merged[index])!r}, expected {float(expected[index])!r}"
            raise MergeError(info.name, f"{found}, the value of {owner}", REPORT)

    def _add_counts(self, info: TensorInfo, span: Span, masks: Masks) -> None:
        block_counts = {vector: int(mask.sum()) for vector, mask in masks.items()}

        # Blocks come on several threads, and the last of a tensor may be any of them.
        with self._lock:
            counts = self._counts.setdefault(info.name, Counter())
            counts.update(block_counts)
            self._seen[info.name] += span[1] - span[0]
            if self._seen[info.name] < info.elements:
                return
            self.tensors += 1
            self.elements += info.elements
        self._refuse_other_counts(info, counts if masks else None)

    def _refuse_other_counts(self, info: TensorInfo, counts: Counter[str] | None) -> None:
        if counts is None:  # all weights are 0: nothing was shared out
            return
        for vector, ratio in self.merger.recipe.method.compute_ratios(self.merger.vectors).items():
            expected = count_share(info.elements, ratio)
            if counts[vector] != expected:
                found = f"vector '{vector}' has {counts[vector]} of {info.elements} entries"
                raise MergeError(
                    info.name, f"{found}, expected floor({ratio:g} * {info.elements}) = {expected}", REPORT
                )


def refuse_overlap(name: str, span: Span, masks: Masks) -> None:
    """Raise :class:`MergeError` when two of `masks` hold the same position."""
    taken: Masks = {}
    for vector, mask in masks.items():
        for other, before in taken.items():
            both = (mask & before).nonzero()
            if len(both):
                found = f"entry {span[0] + int(both[0])} is kept by vector '{other}' and by vector '{vector}'"
                raise MergeError(name, found, REPORT)
        taken[vector] = mask
