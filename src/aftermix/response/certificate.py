"""Bound on the gain of any merge within the ranges over the winner, at a confidence of 95 %.

    bound = 95 % quantile over draws b of  max over w in W of  S_b(w) - S_b(winner)

with `S_b` as in :mod:`aftermix.response.draws`; differences of scores are as uncertain as the slope of the line from
tempered scores to the metric, and the winner's metric is off that line by as much as those of the measured merges are
beyond what the drawing of their items explains, which `S_b` has already. `bound_items_fixed` is the same for the very
items that were searched on, by tempered scores alone; where it is below the precision, further merges tell less than
the items do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aftermix.response.draws import CandidateScores, draw_objective
from aftermix.response.response_model import ResponseModel

# B draws, C candidates

CONFIDENCE = 0.95


@dataclass(frozen=True)
class MergeCertificate:
    """Facts of the winner against all merges within the ranges."""

    bound: float
    bound_items_fixed: float
    probability: float
    """Share of the draws in which no merge is better than the winner by more than the precision."""
    precision: float
    items_factor: float | None
    """Times as many items would halve `bound`; None where the response alone leaves more than half of it open."""

    @property
    def is_met(self) -> bool:
        """True where more merges would tell less than the items can."""
        return self.bound_items_fixed <= self.precision


@dataclass(frozen=True)
class CertificateDraws:
    """Draws of one objective over candidates, from which any of them is certified."""

    draws_BC: NDArray[np.float32]
    slopes_B: NDArray[np.float32]
    """Slope of the line from tempered scores to the metric, over the fitted one."""
    doubts_B: NDArray[np.float32]
    """The winner's metric off the line."""
    fixed_BC: NDArray[np.float32]
    """Draws with the items held fixed."""
    within: NDArray[np.bool_]
    """(C,) true for candidates within ranges and floors."""

    @classmethod
    def draw(
        cls,
        model: ResponseModel,
        scores: CandidateScores,
        weights: Mapping[str, float],
        *,
        within: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> CertificateDraws:
        """Draw `sum_t weights_t score_t`."""
        draws_BC = draw_objective(model, scores, weights, rng=rng)
        error, draws = model.calibrate(weights), len(draws_BC)
        doubts_B = np.float32(error.line_deviation) * rng.standard_normal(draws, dtype=np.float32)
        slopes_B = 1 + np.float32(error.slope_error) * rng.standard_normal(draws, dtype=np.float32)
        return cls(
            draws_BC, slopes_B, doubts_B, draw_objective(model, scores, weights, rng=rng, items_fixed=True), within
        )

    def certify(self, winner: int, precision: float) -> MergeCertificate:
        """The certificate of candidate number `winner`."""
        gains_B = self.slopes_B * compute_gains(self.draws_BC, winner, self.within)
        gains_B = np.maximum(gains_B + self.doubts_B, 0.0)
        fixed_B = compute_gains(self.fixed_BC, winner, self.within)
        bound, fixed = (float(np.quantile(gains, CONFIDENCE)) for gains in (gains_B, fixed_B))
        return MergeCertificate(
            bound=bound,
            bound_items_fixed=fixed,
            probability=float(np.mean(gains_B <= precision)),
            precision=precision,
            items_factor=_count_items_to_halve(bound, fixed),
        )


def certify_winner(
    model: ResponseModel,
    scores: CandidateScores,
    weights: Mapping[str, float],
    *,
    winner: int,
    within: NDArray[np.bool_],
    precision: float,
    rng: np.random.Generator,
) -> MergeCertificate:
    """The certificate of candidate number `winner` alone, against those `within` ranges and floors."""
    return CertificateDraws.draw(model, scores, weights, within=within, rng=rng).certify(winner, precision)


def compute_gains(draws_BC: NDArray[np.float32], winner: int, within: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(B,) how much better than the winner the best merge is; 0 where none is."""
    if not within.any():
        return np.zeros(len(draws_BC), dtype=np.float32)
    return np.asarray(np.maximum(draws_BC[:, within].max(axis=1) - draws_BC[:, winner], 0.0))


def _count_items_to_halve(bound: float, fixed: float) -> float | None:
    """`(b^2 - f^2) / (b^2 / 4 - f^2)`: the items' part of the square shrinks as their number grows, the rest stays."""
    left = bound**2 / 4 - fixed**2
    return (bound**2 - fixed**2) / left if left > 0 else None
