"""Shares that each vector got: counted while a merge runs, from what its pruners let through.

# share = count / elements; under an exclusive rule, counts and `rest` (what keeps the base's values) sum to elements
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from aftermix.checkpoints.model import TensorInfo
from aftermix.config.places import Weight
from aftermix.merging.merge import Merger
from aftermix.merging.methods import BoundMethod
from aftermix.merging.recipe import Weights
from aftermix.merging.rules.exclusive import BLOCK_INDEX, ExclusivePruner
from aftermix.merging.rules.intra import keep_all
from aftermix.merging.saliency import ChannelImportance, MissingStatistics, choose_ranking
from aftermix.merging.watchers.merged_block import MergedBlock
from aftermix.runs.share_records import (
    KindSharesRecord,
    LayerSharesRecord,
    MagnitudeFallbackRecord,
    PlaceWeightRecord,
    SharedCountsRecord,
    SharesRecord,
    TensorSharesRecord,
    VectorWeightRecord,
)

NUMBER = re.compile(r"\.\d+(?=\.|$)")
LISTED = 3


@dataclass
class ShareTally:
    """Counts by tensor and vector; shown every block of a merge, it counts what the merge itself kept.

    A vector has the positions that it owns under an exclusive rule, whatever its weight; under any other rule, those
    where what it keeps is not 0.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, block: MergedBlock) -> None:
        """Add one block."""
        counts = {vector: _count_kept(block, vector) for vector in block.pruners}
        with self._lock:
            self.counts.setdefault(block.info.name, Counter()).update(counts)


def _count_kept(block: MergedBlock, vector: str) -> int:
    pruner = block.pruners[vector]
    if isinstance(pruner, ExclusivePruner):
        return pruner.count_owned(block.span)
    return int(np.count_nonzero(block.kept[vector].numpy() != 0))


def drops_entries(method: BoundMethod, vectors: Iterable[str]) -> bool:
    """True where some vector gets less than a whole tensor."""
    if method.is_exclusive:
        return True
    densities = [method.collect_options(vector).get("density", 1.0) for vector in vectors]
    return method.rules[0] is not keep_all and any(density != 1.0 for density in densities)


def build_share_record(merger: Merger, weights: Weights, tally: ShareTally) -> SharesRecord:
    """Content of `shares.json`: what every vector got of each tensor, layer and kind of tensor.

    Tied tensors are counted once. Call it when the merge has ended.
    """
    method = merger.recipe.method
    moved = [
        info for info in merger.pool.layout if merger.moves(info) and merger.resolve_tied_name(info.name) == info.name
    ]
    is_exclusive = method.is_exclusive
    entries = {
        info.name: ShareCounts(info.elements, dict(tally.counts.get(info.name, {})), is_exclusive) for info in moved
    }
    ratios = method.compute_ratios(merger.vectors) if is_exclusive else {}

    layers, kinds = (_group_parts(entries, key, is_exclusive) for key in (find_block, find_kind))
    fallback = {"fallback": find_fallbacks(merger)} if method.needs_statistics else {}
    return SharesRecord(
        format="aftermix shares",
        version=1,
        method=method.name,
        exclusive=is_exclusive,
        vectors={
            v: VectorWeightRecord(weight=_dump_weight(weights.get(v, 0.0)), **_dump_ratio(ratios, v))
            for v in merger.vectors
        },
        total=SharedCountsRecord(**ShareCounts.join(entries.values(), is_exclusive).dump(merger.vectors)),
        layers=tuple(LayerSharesRecord(block=block, **part.dump(merger.vectors)) for block, part in layers.items()),
        kinds=tuple(KindSharesRecord(kind=kind, **part.dump(merger.vectors)) for kind, part in kinds.items()),
        tensors={info.name: _build_tensor_record(merger, info, entries[info.name]) for info in moved},
        unmoved=tuple(info.name for info in merger.pool.layout if not merger.moves(info)),
        **fallback,
    )


@dataclass(frozen=True)
class ShareCounts:
    """A tensor, or several taken together: how many positions there are, and how many of them each vector got."""

    elements: int
    counts: Mapping[str, int]
    exclusive: bool

    @staticmethod
    def join(parts: Iterable[ShareCounts], exclusive: bool) -> ShareCounts:
        """All of `parts` as one."""
        elements, counts = 0, Counter[str]()
        for part in parts:
            elements += part.elements
            counts.update(part.counts)
        return ShareCounts(elements, counts, exclusive)

    def dump(self, vectors: Iterable[str]) -> dict[str, Any]:
        """Counts and shares of `vectors`, and the rest where it can be told from them."""
        counts = {vector: self.counts.get(vector, 0) for vector in vectors}
        shares = {vector: count / self.elements if self.elements else 0.0 for vector, count in counts.items()}
        rest = {"rest": self.elements - sum(counts.values())} if self.exclusive else {}
        return {"elements": self.elements, "counts": counts, "shares": shares, **rest}


def find_block(name: str) -> str | None:
    """The block in which a tensor lies; None outside of all blocks.

    >>> find_block("model.layers.3.self_attn.q_proj.weight"), find_block("model.norm.weight")
    ('model.layers.3', None)
    """
    match = BLOCK_INDEX.match(name)
    return match["block"] if match else None


def find_kind(name: str) -> str:
    """Kind of a tensor in its block: its name without the block, numbers of experts and the final `weight`.

    >>> find_kind("model.layers.3.self_attn.q_proj.weight"), find_kind("model.layers.0.mlp.experts.7.up_proj.weight")
    ('self_attn.q_proj', 'mlp.experts.up_proj')
    >>> find_kind("h.0.attn.c_attn.bias"), find_kind("lm_head.weight")
    ('attn.c_attn.bias', 'lm_head')
    """
    block = find_block(name)
    inner = name.removeprefix(f"{block}.") if block else name
    return NUMBER.sub("", inner).removesuffix(".weight")


def find_fallbacks(merger: Merger) -> MagnitudeFallbackRecord:
    """List what saliency could not rank: vectors without statistics, by vector weights whose layer saw no token."""
    moved = {info.name for info in merger.pool.layout if merger.moves(info)}
    measured = {
        v: s for v, s in merger.statistics.items() if not isinstance(s, MissingStatistics) and v in merger.vectors
    }
    unseen = {
        vector: tuple(name for name in statistics.uncovered if name.partition("[")[0] in moved)
        for vector, statistics in measured.items()
    }
    return MagnitudeFallbackRecord(
        without_statistics=tuple(vector for vector in merger.vectors if vector not in measured),
        without_tokens={vector: names for vector, names in unseen.items() if names},
    )


def describe_fallbacks(merger: Merger) -> list[str]:
    """The same in at most two lines for the terminal."""
    if not merger.recipe.method.needs_statistics:
        return []
    unranked, lines = find_fallbacks(merger), []
    if unranked.without_statistics:
        lines.append(f"Ranked by magnitude, without statistics: {', '.join(unranked.without_statistics)}")

    weights = [f"{name} ({vector})" for vector, names in unranked.without_tokens.items() for name in names]
    if weights:
        first = ", ".join(weights[:LISTED]) + (", ..." if len(weights) > LISTED else "")
        lines.append(f"Ranked by magnitude, since their layers saw no token: {len(weights)} weights: {first}")
    return lines


def _group_parts(entries: Mapping[str, ShareCounts], key: Any, exclusive: bool) -> dict[Any, ShareCounts]:
    """Parts with one `key` of their name taken together; layers in order of number, what has no key last."""
    members: dict[Any, list[ShareCounts]] = {}
    for name, part in entries.items():
        members.setdefault(key(name), []).append(part)
    return {group: ShareCounts.join(members[group], exclusive) for group in sorted(members, key=_build_sort_key)}


def _build_sort_key(group: str | None) -> tuple[bool, list[tuple[int, str]]]:
    parts = re.split(r"(\d+)", group or "")
    return group is None, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _dump_weight(weight: Weight) -> float | tuple[PlaceWeightRecord, ...]:
    if not isinstance(weight, tuple):
        return float(weight)
    return tuple(
        PlaceWeightRecord(**({"match": rule.match} if rule.match else {}), value=rule.value) for rule in weight
    )


def _dump_ratio(ratios: Mapping[str, float], vector: str) -> dict[str, float]:
    return {"ratio": ratios[vector]} if ratios else {}


def _build_tensor_record(merger: Merger, info: TensorInfo, part: ShareCounts) -> TensorSharesRecord:
    return TensorSharesRecord(
        block=find_block(info.name),
        kind=find_kind(info.name),
        **part.dump(merger.vectors),
        **_dump_rankings(merger, info),
    )


def _dump_rankings(merger: Merger, info: TensorInfo) -> dict[str, Any]:
    """By what each vector ranked this tensor, for a method that ranks by saliency."""
    if not merger.recipe.method.needs_statistics:
        return {}
    rankings = {v: choose_ranking(merger.statistics[v], info.name, info.shape) for v in merger.vectors}
    return {"ranked_by": {v: "saliency" if isinstance(r, ChannelImportance) else r for v, r in rankings.items()}}
