"""Mutually exclusive iterative merging: every entry of a tensor comes from one vector at most."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.model import Span
from aftermix.errors import MergeError, ask_meant
from aftermix.merging.rules.intra import Pruner
from aftermix.merging.topk.magnitude import count_share, read_magnitude_bits
from aftermix.merging.topk.scores import Score, ScoredEntries, find_top_scored

BLOCK_INDEX = re.compile(r"(?P<block>.*?\.(?P<index>\d+))\.")
Owners = NDArray[np.uint8]
"""For each entry of a flattened tensor, 1 + the number of the vector that has it, 0 where none has."""
MOST_VECTORS = int(np.iinfo(np.uint8).max)
Order = Literal["rotation"] | tuple[str, ...]


def exclusive(
    entries: Mapping[str, ScoredEntries],
    ratios: Mapping[str, float],
    shift: int,
    *,
    order: Order = "rotation",
    start: str | None = None,
    count_base: bool = False,  # noqa: ARG001 - decides `ratios`, which the method computes
) -> dict[str, Pruner]:
    """Pruners of one tensor, one for each vector, so that no entry is kept by two.

    Formula: the vectors take turns; each takes the `floor(n_k * d)` free entries with its largest scores, equal scores
    by larger magnitude, then by lower index, d being the size of the whole tensor. `order: rotation` is the order of
    name, begun `shift` further than `start` (by default the first name); a list of names is an order for every tensor.
    With `count_base` the default ratio is 1 / (K + 1) for K vectors: the base is one of those that share. Source: OBIM,
    Algorithm 1. Memory is a byte for each entry, so more than 255 vectors are a :class:`MergeError`.
    """
    names = list(entries)
    if len(names) > MOST_VECTORS:
        found = f"an exclusive merge takes at most {MOST_VECTORS}, found {len(names)}"
        raise MergeError("vectors", found, "Merge some of them first.")

    # Every turn sees what the earlier ones have left.
    elements = next(iter(entries.values())).deltas.elements
    owners: Owners = np.zeros(elements, dtype=np.uint8)
    for name in _order_turns(names, order, shift, start):
        count = count_share(elements, ratios[name])
        if count:
            _take(owners, entries[name], count, mark=names.index(name) + 1)
    return {name: ExclusivePruner(owners, number) for number, name in enumerate(names, start=1)}


def compute_shifts(names: Iterable[str]) -> dict[str, int]:
    """By tensor name, how far its rotation is shifted: its block's index plus its place in the block, by name.

    A running count instead would give one kind of matrix the same first vector in every block whenever a block has as
    many tensors as there are vectors. Tensors outside any block have shift 0.

    >>> compute_shifts(["layers.0.a", "layers.0.b", "layers.1.a", "norm"])
    {'layers.0.a': 0, 'layers.0.b': 1, 'layers.1.a': 1, 'norm': 0}
    """
    shifts: dict[str, int] = {}
    places: Counter[str] = Counter()
    for name in sorted(names):
        match = BLOCK_INDEX.match(name)
        shifts[name] = int(match["index"]) + places[match["block"]] if match else 0
        if match:
            places[match["block"]] += 1
    return shifts


def refuse_other_turns(vectors: Sequence[str], order: Order, start: str | None) -> None:
    """Raise :class:`MergeError` when a named `order` is not one of all `vectors`, or `start` none of them."""
    if start is not None and order != "rotation":
        found = f"stands beside a list of names, which begins with {order[0]}"
        raise MergeError("merge.start", found, "Remove `start`, or write `order: rotation`.")
    if start is not None and start not in vectors:
        remedy = ask_meant("Name one of the vectors.", start, vectors)
        raise MergeError("merge.start", f"there is no vector '{start}' ({', '.join(vectors)})", remedy)

    if order == "rotation" or sorted(order) == sorted(vectors):
        return
    unknown = [name for name in order if name not in vectors]
    found = f"there is no vector '{unknown[0]}'" if unknown else f"names {', '.join(order)}, not every vector"
    remedy = "Name each vector once, or `rotation`."
    remedy = ask_meant(remedy, unknown[0], vectors) if unknown else remedy
    raise MergeError("merge.order", f"{found} ({', '.join(vectors)})", remedy)


def _order_turns(names: Sequence[str], order: Order, shift: int, start: str | None) -> Sequence[str]:
    if order != "rotation":
        return [name for name in order if name in names]
    first = (shift + (names.index(start) if start is not None else 0)) % len(names)
    return [*names[first:], *names[:first]]


def _take(owners: Owners, entries: ScoredEntries, count: int, *, mark: int) -> None:
    """Give the `count` free entries of highest rank to `mark`."""
    deltas = entries.deltas
    free = replace(entries, score=partial(_score_free, owners, entries.score))
    mask = find_top_scored(free, count)
    for span, delta in zip(deltas.spans, deltas, strict=True):
        chosen = mask.choose(delta, free.score(delta, [span]), span[0])
        owners[slice(*span)] |= chosen.view(np.uint8) * np.uint8(mark)  # only free entries are chosen, and those are 0


def _score_free(owners: Owners, score: Score, deltas: torch.Tensor, runs: Sequence[Span]) -> torch.Tensor:
    """Scores that order as they did, all of them above 0 where the entry is free and 0 where it is taken."""
    # One step up in the order of floating-point numbers: a free entry of score 0 still comes before a taken one.
    bits = read_magnitude_bits(score(deltas, runs))
    bits += np.int32(1)
    owned = owners[slice(*runs[0])] if len(runs) == 1 else np.concatenate([owners[slice(*run)] for run in runs])
    bits *= owned == 0
    return torch.from_numpy(bits).view(torch.float32)


@dataclass(frozen=True)
class ExclusivePruner:
    """Pruner that keeps what belongs to one vector."""

    owners: Owners
    mark: int

    def __call__(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        """The block with the entries of other vectors, and of none, made zero in place."""
        part = self.owners[start : start + len(delta)] == self.mark
        np.multiply(delta.numpy(), part, out=delta.numpy())
        return delta

    def count_owned(self, span: Span) -> int:
        """Count those of the entries `span` that belong to the vector."""
        return int(np.count_nonzero(self.owners[slice(*span)] == self.mark))
