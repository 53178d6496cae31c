"""One model scored twice: rounding is nothing, a difference is told, noise as large as the items' own is refused."""

from __future__ import annotations

import pytest

from aftermix.errors import EvaluationError
from aftermix.evaluation.own.results import OwnTaskResult
from aftermix.evaluation.own.steadiness import measure_differences, refuse_unsteady

SCORES = (0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0)
ERROR = 0.18898223650461363
"""Standard error of these: the root of 2/7, over the root of 8."""


def compare(*moved: float, scores: tuple[float, ...] = SCORES) -> list[str]:
    other = [score + shift for score, shift in zip(scores, (*moved, *[0.0] * len(scores)), strict=False)]
    return refuse_unsteady({"t": OwnTaskResult(scores)}, {"t": OwnTaskResult(tuple(other))}, where="e.py:score")


def test_the_difference_of_a_mean_is_held_against_its_error() -> None:
    first, second = OwnTaskResult(SCORES), OwnTaskResult((0.5, *SCORES[1:]))
    (found,) = measure_differences({"t": first}, {"t": second})
    assert found.error == pytest.approx(ERROR)
    assert found.largest == 0.5
    assert found.of_mean == pytest.approx((0.25 / 8 / 8) ** 0.5)  # above 0.5 / 8, the difference of the means


def test_rounding_is_not_told() -> None:
    assert compare(1e-7, -9e-7) == []


def test_a_small_difference_is_told_with_its_size() -> None:
    (line,) = compare(2e-6)
    assert line.startswith("e.py:score: task 't': one model got two scores, 2e-06 apart at most")
    (line,) = compare(0.5)  # 0.0625 of 0.094
    assert "0.5 apart at most" in line


@pytest.mark.parametrize("moved", [(0.1,) * 8, (0.5, -0.5, 0.5, -0.5), (1.0,) * 3])
def test_a_difference_above_half_an_error_is_refused(moved: tuple[float, ...]) -> None:
    with pytest.raises(
        EvaluationError, match=r"expected the same scores twice, found .* above half its standard error"
    ):
        compare(*moved)


def test_equal_items_have_no_error_and_may_not_differ() -> None:
    with pytest.raises(EvaluationError, match=r"of the mean .*, above half its standard error of 0\."):
        compare(1e-3, scores=(1.0, 1.0))


def test_a_whole_task_has_no_error_to_be_held_against() -> None:
    (line,) = refuse_unsteady(
        {"t": OwnTaskResult((0.5,), is_whole=True)}, {"t": OwnTaskResult((0.75,), is_whole=True)}, where="e.py:score"
    )
    assert "0.25 apart" in line
