"""What a scorer returns, read or refused: each fault by its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from aftermix.errors import EvaluationError
from aftermix.evaluation.own.results import (
    check_results,
    check_whole_results,
    describe_kind,
    refuse_other_choices,
    refuse_other_kind,
)

ASKED = {"sts": ["a", "b", "c"]}
WHERE = "my_eval.py:score"


def read(value: Any) -> Any:
    return check_results({"sts": value}, ASKED, where=WHERE)["sts"]


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, torch.tensor, lambda scores: dict(zip("cba", reversed(scores), strict=True))]
)
def test_scores_are_read_from_any_sequence_or_by_id(make: Callable[[Any], Any]) -> None:
    result = read({"scores": make([1.0, 0.0, 0.5])})
    assert result.scores == (1.0, 0.0, 0.5)
    assert describe_kind(result) == "scores of items"


def test_numbers_of_any_library_and_truth_values_are_numbers() -> None:
    assert read({"scores": [True, np.float32(0.5), torch.tensor(2)]}).scores == (1.0, 0.5, 2.0)
    assert read(np.float64(0.25)).scores == (0.25,)
    assert read(torch.tensor(0.25)).is_whole


def test_log_likelihoods_come_with_right_choices() -> None:
    rows = [[-1, -2], [-1, -2, -3], np.array([-4.0])]
    result = read({"scores": [1, 0, 1], "loglikelihoods": rows, "gold": torch.tensor([0, 2, 0])})
    assert result.counts == (2, 3, 1)
    assert result.gold == (0, 2, 0)
    assert describe_kind(result) == "scores of items with log-likelihoods"


SHAPE = r'expected \{"scores": \[\.\.\.\], "loglikelihoods": .*, or one number, found '
BAD: dict[str, tuple[Any, str]] = {
    "no dict": ([1, 2, 3], SHAPE + "a list"),
    "nothing": (None, SHAPE + "nothing"),
    "a text": ("0.5", SHAPE + "a str"),
    "no scores": ({"gold": [0]}, r"or one number, found no `scores`\. The keys are"),
    "unknown key": ({"scores": [1, 2, 3], "score": 1}, "found the key 'score'. The keys are scores, loglikelihoods"),
    "too few": ({"scores": [1, 2]}, r"task 'sts': scores: expected 3, found 2. Return one for each id"),
    "too many": ({"scores": [1, 2, 3, 4]}, r"scores: expected 3, found 4"),
    "NaN": ({"scores": [1, float("nan"), 3]}, r"scores: item 'b': expected a finite number, found nan"),
    "infinite": ({"scores": np.array([1, np.inf, 0])}, r"item 'b': expected a finite number, found inf"),
    "None": ({"scores": [None, 1, 1]}, r"item 'a': expected a finite number, found None"),
    "texts": ({"scores": ["1", 1, 1]}, r"item 'a': expected a finite number, found '1'"),
    "two dimensions": ({"scores": np.ones((3, 2))}, r"item 'a': expected a finite number, found a list"),
    "one text": ({"scores": "abc"}, r"scores: expected a list, found a str"),
    "other ids": ({"scores": {"a": 1, "b": 1, "d": 1}}, r"the 3 ids asked \(a, b, c\), found no 'c' and 'd'"),
    "items in another order": (
        {"scores": [1, 1, 1], "items": ["a", "c", "b"]},
        r"items: expected 'b' at place 1, found 'c'",
    ),
    "whole and NaN": (float("nan"), r"task 'sts': expected a finite number, found nan"),
    "gold alone": ({"scores": [1, 1, 1], "gold": [0, 0, 0]}, "expected `loglikelihoods` beside `gold`, found none"),
    "no gold": ({"scores": [1, 1, 1], "loglikelihoods": [[-1]] * 3}, "the index of each item's right choice"),
    "gold beyond": (
        {"scores": [1, 1, 1], "loglikelihoods": [[-1, -2]] * 3, "gold": [0, 2, 0]},
        r"gold: expected an index from 0 to 1 of item 1 of those asked, found 2",
    ),
    "gold that is no index": (
        {"scores": [1, 1, 1], "loglikelihoods": [[-1, -2]] * 3, "gold": [0, 0.5, 0]},
        r"of item 1 of those asked, found 0\.5",
    ),
    "no choices": (
        {"scores": [1, 1, 1], "loglikelihoods": [[-1], [], [-1]], "gold": [0, 0, 0]},
        r"loglikelihoods: item 'b': expected a number for each choice, found none",
    ),
    "NaN of a choice": (
        {"scores": [1, 1, 1], "loglikelihoods": [[-1], [float("nan")], [-1]], "gold": [0, 0, 0]},
        r"loglikelihoods: item 'b': expected a finite number, found nan",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_result_is_refused_by_its_place(case: str) -> None:
    value, message = BAD[case]
    with pytest.raises(EvaluationError, match=message) as refusal:
        read(value)
    assert refusal.value.problem.where.startswith(f"{WHERE}: task 'sts'")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({}, r"expected the 1 tasks asked \(sts\), found no 'sts'"),
        ({"sts": 1.0, "nli": 1.0}, r"found 'nli'"),
        ({"STS": 1.0}, r"found no 'sts' and 'STS'"),
        (0.5, r"my_eval\.py:score: expected \{task: .*found a float"),
        (None, "found nothing. Return a dict with an entry for each task"),
    ],
)
def test_other_tasks_are_refused(returned: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        check_results(returned, ASKED, where=WHERE)


def test_a_scorer_without_items_gives_a_number_a_task() -> None:
    results = check_whole_results({"sts": 0.5, "nli": np.float32(1)}, where=WHERE)
    assert {task: result.scores for task, result in results.items()} == {"sts": (0.5,), "nli": (1.0,)}
    assert list(check_whole_results({"sts": 0.5, "nli": 1}, ["nli"], where=WHERE)) == ["nli"]


@pytest.mark.parametrize(
    ("returned", "tasks", "message"),
    [
        (0.5, (), "found a float. Return a dict with a number for each task, or define `items"),
        ({}, (), "found no task"),
        ({"sts": {"scores": [1]}}, (), "expected one number, since there is no `items.*found scores of items"),
        ({"sts": float("inf")}, (), "task 'sts': expected a finite number, found inf"),
        ({"sts": 1}, ("nli",), r"expected a number for each task \(nli\), found \['sts'\]"),
        ({1: 1}, (), "named by a text"),
    ],
)
def test_a_scorer_without_items_is_refused_anything_else(returned: Any, tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        check_whole_results(returned, tasks, where=WHERE)


def test_a_result_of_another_kind_than_before_is_refused() -> None:
    with pytest.raises(EvaluationError, match="expected one number, as before, found scores of items"):
        refuse_other_kind(read({"scores": [1, 2, 3]}), "one number", where=WHERE)


@pytest.mark.parametrize(
    ("counts", "gold", "message"),
    [
        ([2, 3, 2], [0, 0, 1], r"item 'b': expected 3 log-likelihoods, as before, found 2"),
        ([2, 2, 2], [0, 0, 0], r"item 'c': expected the right choice 0, as before, found 1"),
    ],
)
def test_other_choices_than_before_are_refused(counts: list[int], gold: list[int], message: str) -> None:
    result = read({"scores": [1, 1, 1], "loglikelihoods": [[-1, -2]] * 3, "gold": [0, 0, 1]})
    refuse_other_choices(result, ASKED["sts"], [2, 2, 2], [0, 0, 1], where=WHERE)
    with pytest.raises(EvaluationError, match=message):
        refuse_other_choices(result, ASKED["sts"], counts, gold, where=WHERE)
