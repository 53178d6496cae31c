"""Parameter competition: each entry is an average over the vectors, weighted by how they score in it.

Source: PCB-Merging (Du et al., 2024). A vector's score in an entry grows with its own magnitude there (intra-balancing)
and with its agreement with the others (inter-balancing); of each vector the lowest scores are dropped.

# K vectors, n entries of a tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.merging.rules.inter import weighted_sum
from aftermix.merging.rules.surveys import Combiner
from aftermix.merging.temporaries import allocate_like
from aftermix.merging.topk.magnitude import TensorBlocks, count_kept, find_threshold


@dataclass(frozen=True)
class ScaledSoftmax:
    """A softmax over the entries of a tensor, of values scaled to [0, 1] over it."""

    low: float
    high: float
    mass: float = 1.0
    """n over the sum of the exponentials: shares are relative to the mean share."""

    def apply(self, values: torch.Tensor, times: float) -> torch.Tensor:
        """`mass * exp(times * (scaled - 1))`, in the values' own memory. Where all are equal they count as 1."""
        scaled = values.sub_(self.high).div_((self.high - self.low) or 1.0)
        return scaled.mul_(times).exp_().mul_(self.mass)


@dataclass(frozen=True)
class CompetitorScores:
    """Range of one vector's tensor: of its magnitudes and of their scores."""

    low: float
    high: float
    """Magnitudes are clamped to these, and scored by where they lie between them."""
    floor: float = 0.0
    """The lowest score that is kept."""
    top: float = 0.0
    """The highest score."""
    own: ScaledSoftmax | None = None
    others: tuple[ScaledSoftmax, ...] = ()
    """Of its products with every vector; both for the paper's scores."""


def survey_competition(
    tensors: Sequence[TensorBlocks],
    info: TensorInfo,
    *,
    density: Annotated[float, Field(gt=0, le=1)] = 0.1,
    scores: Literal["tanh", "softmax"] = "tanh",
    clamp: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
) -> list[CompetitorScores]:
    """Survey of one tensor: for each vector its range of magnitudes and of scores.

    `density` is the share of entries that keep a score. `clamp` is a share of entries at either end of the magnitudes
    that is clamped to the next. :func:`pcb` says what `scores` are. Memory is the tensor once, besides blocks.
    """
    if not info.elements:
        return [CompetitorScores(0.0, 0.0) for _ in tensors]
    competitors = [CompetitorScores(*_find_magnitude_range(tensor, clamp)) for tensor in tensors]
    if scores == "softmax":
        competitors = _add_softmax(tensors, competitors)

    total = torch.empty(info.elements)
    for span in tensors[0].spans:
        total[slice(*span)] = weighted_sum([tensor.read(span) for tensor in tensors], [1.0] * len(tensors))

    def add_scores(number: int) -> CompetitorScores:
        def read(span: Span) -> torch.Tensor:
            if scores == "tanh":
                return _compute_tanh_scores(
                    tensors[number].read(span), total[slice(*span)], competitors[number], len(tensors)
                )
            return _compute_softmax_scores(number, [tensor.read(span) for tensor in tensors], competitors[number])

        values = TensorBlocks(tensors[0].spans, read)
        floor = _find_nth_largest(values, count_kept(info.elements, density))
        return replace(competitors[number], floor=floor, top=max(float(block.max()) for block in values))

    return [add_scores(number) for number in range(len(tensors))]


def pcb(competitors: Sequence[CompetitorScores], weights: Sequence[float]) -> Combiner:
    """`sum_i w_i delta_i s_i / sum_i s_i`, entry by entry; 0 where no vector keeps a score.

    Formula (`scores: tanh`, the authors' code): `b_i = exp(K (a_i^2 - 1)) tanh(delta_i sum_j delta_j)`, `a_i` the
    magnitude of delta_i scaled to [0, 1] over the tensor; `s_i = (max(b_i, floor_i) - floor_i) / (top_i - floor_i)`,
    floor_i the lowest kept score of vector i and top_i its highest. `exp(-K)`, the same for all, cancels out. Where all
    kept scores of a vector are equal they count as 1.

    `scores: softmax`, the paper (section 3.2): `b_i = softmax(K norm(delta_i^2)) sum_j softmax(norm(delta_i delta_j))`
    over the entries of the tensor, norm scaling to [0, 1]; `s_i = b_i` where b_i reaches floor_i, else 0.

    A vector alone competes with none: it has `w delta` where its score is kept. Scores see the vectors without their
    weights, so equal weights w give w times the published merge.
    """
    return lambda tensors, _: _combine_block(competitors, weights, tensors)


def _combine_block(
    competitors: Sequence[CompetitorScores], weights: Sequence[float], tensors: Sequence[torch.Tensor]
) -> torch.Tensor:
    total = weighted_sum(tensors, [1.0] * len(tensors))
    merged, mass = (allocate_like(total).zero_() for _ in range(2))
    for number, (competitor, tensor, weight) in enumerate(zip(competitors, tensors, weights, strict=True)):
        share = _compute_share(number, tensors, total, competitor)
        mass.add_(share)
        clamped = tensor.abs().clamp_(competitor.low, competitor.high).copysign_(tensor).mul_(tensor != 0)
        merged.add_(clamped.mul_(share), alpha=weight)
    return merged.div_(mass.masked_fill_(mass == 0, 1.0))


def _compute_share(
    number: int, tensors: Sequence[torch.Tensor], total: torch.Tensor, competitor: CompetitorScores
) -> torch.Tensor:
    """`s_i` of one block."""
    if competitor.own:
        scores = _compute_softmax_scores(number, tensors, competitor)
    else:
        scores = _compute_tanh_scores(tensors[number], total, competitor, len(tensors))
    width, is_kept = competitor.top - competitor.floor, scores >= competitor.floor
    if len(tensors) == 1 or (not competitor.own and not width > 0):
        return is_kept.to(scores.dtype)
    if competitor.own:
        return scores.mul_(is_kept)
    return scores.clamp_min_(competitor.floor).sub_(competitor.floor).div_(width)


def _compute_tanh_scores(
    delta: torch.Tensor, total: torch.Tensor, competitor: CompetitorScores, count: int
) -> torch.Tensor:
    """`exp(K (a^2 - 1)) tanh(delta sum_j delta_j)` of one block."""
    width = competitor.high - competitor.low
    own = delta.abs().clamp_(competitor.low, competitor.high).sub_(competitor.low).div_(width or 1.0)
    own.square_().sub_(1.0).mul_(float(count)).exp_()
    return own.mul_(torch.mul(delta, total).tanh_())


def _compute_softmax_scores(number: int, tensors: Sequence[torch.Tensor], competitor: CompetitorScores) -> torch.Tensor:
    """The paper's scores of one block, as multiples of what they would be if all entries were equal."""
    delta = tensors[number]
    agreement = allocate_like(delta).zero_()
    for other, softmax in zip(tensors, competitor.others, strict=True):
        agreement.add_(softmax.apply(torch.mul(delta, other), 1.0))
    assert competitor.own is not None  # noqa: S101 - the survey made it; for the type checker
    return agreement.mul_(competitor.own.apply(torch.mul(delta, delta), float(len(tensors))))


def _add_softmax(tensors: Sequence[TensorBlocks], competitors: Sequence[CompetitorScores]) -> list[CompetitorScores]:
    """With the softmax of every vector and of every pair of them."""
    count = len(tensors)

    def multiply(i: int, j: int) -> TensorBlocks:
        return TensorBlocks(tensors[i].spans, lambda span: tensors[i].read(span).mul_(tensors[j].read(span)))

    def fit_softmax(values: TensorBlocks, times: float) -> ScaledSoftmax:
        ranges = [torch.aminmax(block) for block in values]
        shape = ScaledSoftmax(min(float(low) for low, _ in ranges), max(float(high) for _, high in ranges))
        # NumPy adds in one order; PyTorch's depends on the number of threads.
        sums = [float(shape.apply(block, times).numpy().sum(dtype=np.float64)) for block in values]
        return replace(shape, mass=values.elements / sum(sums))

    pairs = {(i, j): fit_softmax(multiply(i, j), 1.0) for i in range(count) for j in range(i, count)}
    others = [tuple(pairs[min(i, j), max(i, j)] for j in range(count)) for i in range(count)]
    return [
        replace(competitor, own=fit_softmax(multiply(i, i), float(count)), others=others[i])
        for i, competitor in enumerate(competitors)
    ]


def _find_magnitude_range(tensor: TensorBlocks, clamp: float) -> tuple[float, float]:
    """The smallest and the largest magnitude, `clamp` of the entries left out at either end."""
    elements = tensor.elements
    if not clamp:
        ranges = [torch.aminmax(block.abs_()) for block in tensor]
        return min(float(low) for low, _ in ranges), max(float(high) for _, high in ranges)
    below, above = int(elements * clamp), min(-int(-elements * clamp // 1), elements - 1)
    return _convert_to_float(find_threshold(tensor, elements - below).bits), _convert_to_float(
        find_threshold(tensor, above + 1).bits
    )


def _find_nth_largest(values: TensorBlocks, count: int) -> float:
    """The `count`-th largest value, signs and all."""
    largest = _convert_to_float(
        find_threshold(TensorBlocks(values.spans, lambda span: values.read(span).relu_()), count).bits
    )
    if largest > 0:
        return largest

    # It is not positive: then it is the one above so many of the negative ones, whose magnitudes are ranked.
    negative = TensorBlocks(values.spans, lambda span: values.read(span).neg_().relu_())
    return -_convert_to_float(find_threshold(negative, values.elements - count + 1).bits)


def _convert_to_float(magnitude_bits: int) -> float:
    return float(np.int32(magnitude_bits).view(np.float32))
