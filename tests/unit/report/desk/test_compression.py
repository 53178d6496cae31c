"""Outputs made small: within the tolerance at positions that were not fitted, and no larger than it takes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.response.response_world import list_design, place_merges

from aftermix.report.desk.compression import CompressedOutputs, compress_outputs
from aftermix.response.surface.coordinates import Floats
from aftermix.response.surface.kernel import ResponseKernel
from aftermix.response.surface.process import ResponseProcess

ITEMS = 500


class SmoothWorld:
    """Items with three wrong answers each, whose lead is drawn from a process over `merges` of two vectors."""

    def __init__(self, merges: int) -> None:
        kernel = ResponseKernel(np.log([1.0, 1.0, 0.5, 0.1, 1e-3, 0.5]), np.log([0.5, 0.5]))
        points, others = place_merges(list_design(2, merges)), place_merges(list_design(2, 90, seed=3))
        rng = np.random.default_rng(0)
        root_NN = np.linalg.cholesky(kernel.compute_measured(points))
        self.outputs_NJ = root_NN @ rng.standard_normal((merges, 3 * ITEMS))
        self.process = ResponseProcess.build(kernel, points)
        self.whitened_NJ = self.process.whiten(self.outputs_NJ)
        self.rows_SN = self.process.compute_rows(others)

    def compress(self, tolerance: float) -> CompressedOutputs:
        """Fitted to two thirds of the positions, held to the rest."""
        rows_SN = self.rows_SN
        return compress_outputs(self.whitened_NJ, rows_SN[:60], rows_SN[60:], score_items, tolerance=tolerance)

    def measure_error(self, made: CompressedOutputs) -> float:
        """Largest error of a score over all positions."""
        mixing, basis = made.decode(*self.whitened_NJ.shape)
        return float(np.abs(score_items(self.rows_SN @ mixing @ basis) - self.exact).max())

    @property
    def exact(self) -> Floats:
        """Scores without compression."""
        return score_items(self.rows_SN @ self.whitened_NJ)


def score_items(outputs_SJ: Floats) -> Floats:
    """Mean over items of how surely the best of their three wrong answers loses."""
    return np.asarray((1 / (1 + np.exp(-outputs_SJ.reshape(-1, ITEMS, 3).min(axis=2)))).mean(axis=1))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-5])
def test_scores_stay_within_the_tolerance(tolerance: float) -> None:
    world = SmoothWorld(24)

    assert world.measure_error(world.compress(tolerance)) <= 1.5 * tolerance


def test_a_wider_tolerance_takes_fewer_bytes() -> None:
    world = SmoothWorld(24)

    sizes = [len(world.compress(tolerance).basis) for tolerance in (1e-2, 1e-3, 1e-4, 1e-5)]

    assert sizes == sorted(sizes)
    assert sizes[0] < 0.6 * sizes[-1]


def test_a_hundred_merges_fit_a_page() -> None:
    made = SmoothWorld(100).compress(1e-4)

    # 4,000 items have eight times as many columns, and the page is to stay below 3 MB.
    assert 8 * (len(made.basis) + len(made.mixing)) < 1_500_000
    assert made.directions < 60


def test_few_items_take_more_bytes_each() -> None:
    world = SmoothWorld(6)
    few = 3 * 2
    world.whitened_NJ = world.whitened_NJ[:, :few]

    def score(outputs_SJ: Floats) -> Floats:
        return np.asarray(4 / (1 + np.exp(-outputs_SJ.reshape(-1, 2, 3).min(axis=2))).mean(axis=1))

    exact = score(world.rows_SN @ world.whitened_NJ)
    made = compress_outputs(world.whitened_NJ, world.rows_SN[:60], world.rows_SN[60:], score, tolerance=1e-6)
    mixing, basis = made.decode(6, few)

    assert np.abs(score(world.rows_SN @ mixing @ basis) - exact).max() < 1e-5
    assert max(made.widths) == 4


def test_the_same_outputs_are_the_same_bytes_whatever_the_signs() -> None:
    world = SmoothWorld(12)
    first = world.compress(1e-4)

    world.process = ResponseProcess.build(world.process.kernel, world.process.points)

    assert world.compress(1e-4) == first


def test_outputs_that_are_all_zero_have_no_direction() -> None:
    world = SmoothWorld(6)
    world.whitened_NJ = np.zeros_like(world.whitened_NJ)

    made = world.compress(1e-4)

    assert (made.directions, made.basis) == (0, "")
    assert world.measure_error(made) == 0
