"""The process over merges: kernel, factorisation and left-out predictions against slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.response.surface.coordinates import Floats, MergeCoordinates, MergePoints
from aftermix.response.surface.fit import compute_evidence_loss, fit_kernel
from aftermix.response.surface.kernel import ResponseKernel
from aftermix.response.surface.process import ResponseProcess


def build_points(numbers: Floats, choices: list[list[int]] | None = None) -> MergePoints:
    held = choices if choices is not None else [[] for _ in numbers]
    return MergePoints(numbers, np.array(held, dtype=np.int64).reshape(len(numbers), -1))


def build_kernel(dimensions: int, *, noise: float = 1e-4, lengths: list[float] | None = None) -> ResponseKernel:
    logs = np.log([2.0, 0.7, 0.3, 0.2, noise, 0.5])
    return ResponseKernel(logs, np.log(lengths or [0.8] * dimensions))


def test_covariance_is_level_line_parabola_and_bell() -> None:
    kernel = build_kernel(2, lengths=[0.5, 2.0])
    ours = build_points(np.array([[0.2, 0.4], [1.0, -0.3]]), [[0], [1]])
    theirs = build_points(np.array([[0.6, 0.1]]), [[0]])

    expected = []
    for (x, y), choice in zip([(0.2, 0.4), (1.0, -0.3)], [0, 1], strict=True):
        product = x * 0.6 / 0.25 + y * 0.1 / 4
        square = (x - 0.6) ** 2 / 0.25 + (y - 0.1) ** 2 / 4
        bent = 0.7 * product + 0.3 * product**2 + 0.2 * math.exp(-square / 2)
        expected.append([2.0 + bent * (math.exp(-0.5) if choice else 1.0)])
    assert kernel.compute(ours, theirs) == pytest.approx(np.array(expected))


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 4))
def test_covariances_are_those_of_a_process(seed: int, count: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    points = build_points(rng.uniform(-1, 1, (count, dimensions)), rng.integers(0, 3, (count, 2)).tolist())
    kernel = build_kernel(dimensions)

    covariance = kernel.compute(points, points)
    assert covariance == pytest.approx(covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    assert np.diag(covariance) == pytest.approx(kernel.compute_variances(points))


def test_a_merge_left_out_is_predicted_as_by_a_process_without_it() -> None:
    rng = np.random.default_rng(0)
    points, outputs = build_points(rng.uniform(0, 1, (7, 3))), rng.normal(size=(7, 5))
    process = ResponseProcess.build(build_kernel(3), points)

    expected, variances = process.leave_one_out(outputs)
    for left in range(7):
        others = np.arange(7) != left
        twin = ResponseProcess.build(build_kernel(3), points.take(others))
        assert expected[left] == pytest.approx(
            twin.compute_rows(points.take(~others))[0] @ twin.whiten(outputs[others])
        )
        without = twin.compute_variances(points.take(~others))[0] + process.kernel.noise
        assert variances[left] == pytest.approx(without)


def test_predictions_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(1)
    points, outputs = build_points(rng.uniform(0, 1, (6, 2))), rng.normal(size=(6, 4))
    candidates, kernel = build_points(rng.uniform(0, 1, (3, 2))), build_kernel(2)
    process = ResponseProcess.build(kernel, points)

    inverse = np.linalg.inv(kernel.compute(points, points) + 1e-4 * np.eye(6))
    cross = kernel.compute(candidates, points)
    assert process.compute_rows(candidates) @ process.whiten(outputs) == pytest.approx(cross @ inverse @ outputs)
    covariance = kernel.compute(candidates, candidates) - cross @ inverse @ cross.T
    assert process.compute_covariance(candidates) == pytest.approx(covariance)
    assert process.compute_variances(candidates) == pytest.approx(np.diag(covariance))


def test_evidence_is_that_of_a_normal_distribution() -> None:
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(2)
    points, outputs = build_points(rng.uniform(0, 1, (5, 2))), rng.normal(size=(5, 30))
    kernel = build_kernel(2, noise=0.1)

    normal = multivariate_normal(np.zeros(5), kernel.compute_measured(points))
    expected = -float(normal.logpdf(outputs.T).sum()) - 0.5 * 30 * 5 * math.log(2 * math.pi)
    loss, _ = compute_evidence_loss(kernel, points, outputs @ outputs.T / 30)
    assert loss == pytest.approx(expected)


def test_slopes_of_the_evidence_are_those_of_small_steps() -> None:
    """With and without settings; a logarithm moved by 1e-5 to both sides."""
    rng = np.random.default_rng(4)
    numbers, outputs = rng.uniform(0, 1, (8, 3)), rng.normal(size=(8, 40))
    for choices in (np.zeros((8, 0), dtype=np.int64), rng.integers(0, 3, (8, 2))):
        points, packed = MergePoints(numbers, choices), 0.5 * rng.normal(size=9)

        def compute_loss(logarithms: np.ndarray, points: MergePoints = points) -> float:
            kernel = ResponseKernel.unpack(logarithms)
            return compute_evidence_loss(kernel, points, outputs @ outputs.T / 40)[0]

        _, slopes = compute_evidence_loss(ResponseKernel.unpack(packed), points, outputs @ outputs.T / 40)
        steps = [(compute_loss(packed + step) - compute_loss(packed - step)) / 2e-5 for step in 1e-5 * np.eye(9)]
        assert slopes == pytest.approx(steps, rel=1e-5, abs=1e-5)


def test_a_sharp_direction_gets_the_shorter_length() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.uniform(0, 1, (20, 2))
    outputs = rng.normal(size=60) * np.sin(7 * numbers[:, :1]) + rng.normal(size=60) * 0.5 * numbers[:, 1:]
    kernel = fit_kernel(build_points(numbers), outputs @ outputs.T / 60)
    assert kernel.lengths_D[0] < kernel.lengths_D[1] - 0.5


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_a_fit_is_the_same_in_any_order_of_the_merges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.uniform(0, 1, (6, 2))
    outputs = numbers @ rng.normal(size=(2, 20)) + (numbers**2) @ rng.normal(size=(2, 20)) + 1.0
    order = rng.permutation(6)
    ours = fit_kernel(build_points(numbers), outputs @ outputs.T / 20)
    shuffled = outputs[order]
    theirs = fit_kernel(build_points(numbers[order]), shuffled @ shuffled.T / 20)

    probe, points = build_points(rng.uniform(0, 1, (4, 2))), build_points(numbers)
    ours_process, theirs_process = (
        ResponseProcess.build(ours, points),
        ResponseProcess.build(theirs, points.take(order)),
    )
    mine = ours_process.compute_rows(probe) @ ours_process.whiten(outputs)
    other = theirs_process.compute_rows(probe) @ theirs_process.whiten(shuffled)
    assert mine == pytest.approx(other, abs=0.02 * np.abs(outputs).max())


class TestCoordinates:
    def test_a_sum_is_seen_in_its_weights(self) -> None:
        points = MergeCoordinates(("ja", "math")).locate([{"ja": 0.3, "math": -0.1, "fixed": 1.0}])
        assert points.numbers_ND == pytest.approx(np.array([[0.3, -0.1]]))

    def test_a_mean_is_seen_in_shares_and_the_logarithm_of_the_sum(self) -> None:
        points = MergeCoordinates(("ja", "math"), normalised=True).locate([{"ja": 0.3, "math": -0.1}])
        assert points.numbers_ND == pytest.approx(np.array([[0.75, -0.25, math.log(0.4)]]))

    def test_the_base_has_a_place_under_a_mean(self) -> None:
        points = MergeCoordinates(("ja", "math"), normalised=True).locate([{"ja": 0.0, "math": 0.0}])
        assert points.numbers_ND == pytest.approx(np.array([[0.0, 0.0, math.log(1e-3)]]))

    def test_settings_are_numbers_and_choices(self) -> None:
        coordinates = MergeCoordinates(("ja",), numbers=("density",), choices={"sign": ("total", "majority")})
        points = coordinates.locate([{"ja": 0.3}], [{"density": 0.5, "sign": "majority"}])
        assert points.numbers_ND.tolist() == [[0.3, 0.5]]
        assert points.choices_NS.tolist() == [[1]]

    def test_a_choice_that_is_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"not in list|is not in"):
            MergeCoordinates(("ja",), choices={"sign": ("total",)}).locate([{"ja": 0.3}], [{"sign": "other"}])
