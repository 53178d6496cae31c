"""Records of `shares.json`: entries that each vector got of the tensors of a merge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aftermix.runs.json_record import Finite, RunRecord

SHARES_FILE = "shares.json"


class InBlockRecord(RunRecord):
    """Place of a part in the model."""

    block: str | None
    """As `model.layers.3`; None outside of all blocks."""


class OfKindRecord(RunRecord):
    """Kind of the tensors of a part."""

    kind: str
    """The name without block, expert number and `weight`, as `self_attn.q_proj`."""


class SharedCountsRecord(RunRecord):
    """A tensor, or several together: how many positions there are, and how many each vector got."""

    elements: int
    counts: dict[str, int]
    shares: dict[str, Finite]
    rest: int | None = None
    """Positions of no vector; only where vectors share all positions out."""


class LayerSharesRecord(SharedCountsRecord, InBlockRecord):
    """All tensors of a block; keys of the last base come first."""


class KindSharesRecord(SharedCountsRecord, OfKindRecord):
    """All tensors of one kind; keys of the last base come first."""


class TensorSharesRecord(SharedCountsRecord, OfKindRecord, InBlockRecord):
    """One tensor; keys of the last base come first."""

    ranked_by: dict[str, str] = Field(default_factory=dict)
    """By vector `saliency`, `magnitude` or `random`; only of methods that rank by saliency."""


class MagnitudeFallbackRecord(RunRecord):
    """Tensors that saliency could not rank."""

    without_statistics: tuple[str, ...]
    """Vectors."""
    without_tokens: dict[str, tuple[str, ...]]
    """By vector, weights whose layers saw no token."""


class PlaceWeightRecord(RunRecord):
    """One rule of a weight that depends on the place."""

    match: tuple[str, ...] | None = None
    """Patterns of tensor names; absent where every tensor fits."""
    value: Finite | tuple[Finite, ...]
    """The weight; or several, interpolated over the blocks."""


class VectorWeightRecord(RunRecord):
    """Weight of a vector, and the ratio asked for where positions are shared out."""

    weight: Finite | tuple[PlaceWeightRecord, ...]
    """One for every tensor; or rules, the first that fits a tensor."""
    ratio: Finite | None = None


class SharesRecord(RunRecord):
    """`shares.json`."""

    format: Literal["aftermix shares"]
    version: Literal[1]
    method: str
    exclusive: bool
    """True if its vectors share every tensor out."""
    vectors: dict[str, VectorWeightRecord]
    total: SharedCountsRecord
    layers: tuple[LayerSharesRecord, ...]
    kinds: tuple[KindSharesRecord, ...]
    tensors: dict[str, TensorSharesRecord]
    unmoved: tuple[str, ...]
    """Tensors that keep the base's values whole."""
    fallback: MagnitudeFallbackRecord | None = None
    """Only of methods that rank by saliency."""
