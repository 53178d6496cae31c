"""Scores of one point that a study is told: of each task, perhaps of each item, perhaps with log-likelihoods.

A task is told as a number, as a list with a score for each item, or as `{"scores": [...], "loglikelihoods": [[...],
...], "gold": [...]}`: log-likelihoods of each item's choices, and the index of the right one, which has the greatest
log-likelihood where the item scores 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import SearchError
from aftermix.runs.answers.candidate import KeptAnswers, TaskAnswers
from aftermix.runs.answers.requests import RequestTable, SplitRequests, TaskRequests
from aftermix.runs.item_scores import average
from aftermix.runs.trials import ItemScores

PARTS = ("scores", "loglikelihoods", "gold")
METRIC = "told,none"
"""Name of the metric, as files have it."""


@dataclass(frozen=True)
class ToldAnswers:
    """Scores of one point, checked."""

    means: dict[str, float]
    items: ItemScores
    """A task told as one number counts as one item."""
    requests: RequestTable
    """The items that the log-likelihoods are of; a task without any has none."""
    answers: KeptAnswers

    @property
    def has_likelihoods(self) -> bool:
        """True if any task came with log-likelihoods."""
        return any(of_task.kind == "choice" for of_task in self.requests.values())


def read_told(
    scores: Mapping[str, Any],
    loglikelihoods: Mapping[str, Any] | None,
    gold: Mapping[str, Any] | None,
    *,
    where: str,
    earlier: RequestTable | None = None,
) -> ToldAnswers:
    """Check what is told of the point called `where`.

    `earlier` is what earlier points were told of: the same items, whose `gold` need not be told again. Raises
    :class:`SearchError` naming task and item for what is no finite number, of other items, or of another length.
    """
    means: dict[str, float] = {}
    items: ItemScores = {}
    requests: dict[str, TaskRequests] = {}
    answers: dict[str, TaskAnswers] = {}
    for task in {**(loglikelihoods or {}), **(gold or {})}:
        if task not in scores:
            raise SearchError(f"{where}: task '{task}'", "expected its scores, found none", "Tell its scores as well.")

    for task, given in scores.items():
        place = f"{where}: task '{task}'"
        told, likelihood, right = _take_parts(given, task, loglikelihoods, gold, place)
        if likelihood is not None and isinstance(told, Real):
            found = "expected a score for each item, whose log-likelihoods are told, found one number"
            raise SearchError(place, found, "Tell a list of scores, one for each item.")
        items[task] = _read_scores(told, place)
        means[task] = _average(items[task], place)

        before = earlier.get(task) if earlier else None
        requests[task], answers[task] = _read_likelihoods(likelihood, right, len(items[task]), before, place)
        if before is not None and requests[task] != before:
            raise SearchError(place, _describe_change(before, requests[task]), "Tell the same items at every point.")
    return ToldAnswers(means, items, requests, answers)


def _take_parts(
    given: Any, task: str, loglikelihoods: Mapping[str, Any] | None, gold: Mapping[str, Any] | None, place: str
) -> tuple[Any, Any, Any]:
    """Scores, log-likelihoods and right choices of a task, told together or apart."""
    apart: Any = (loglikelihoods or {}).get(task)
    right: Any = (gold or {}).get(task)
    likelihood = apart.get("loglikelihoods") if isinstance(apart, Mapping) else apart
    if isinstance(apart, Mapping):
        right = apart.get("gold", right)
    if not isinstance(given, Mapping):
        return given, likelihood, right

    unknown = sorted(map(str, set(given) - set(PARTS)))
    if unknown or "scores" not in given:
        found = f"expected {', '.join(PARTS)}, found {', '.join(map(str, given)) or 'nothing'}"
        raise SearchError(place, found, "Tell a number, a list, or a mapping with `scores`.")
    return given["scores"], given.get("loglikelihoods", likelihood), given.get("gold", right)


def _read_scores(given: float | Sequence[float | None], place: str) -> list[float | None]:
    if isinstance(given, Real):
        return [float(given)]
    try:
        scores = [None if score is None else float(score) for score in given]  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        remedy = "Tell a number, or a list with one for each item."
        raise SearchError(place, f"expected numbers, found {given!r:.60}", remedy) from error
    return scores


def _average(scores: Sequence[float | None], place: str) -> float:
    """The score of a task; NaN where no item has one, which is refused as any other."""
    mean = average(scores) if any(score is not None for score in scores) else nan
    if not isfinite(mean):
        remedy = "Tell a finite score, or `tell(number, None, error=...)` for a point that failed."
        raise SearchError(place, f"expected a number, found {mean}", remedy)
    return mean


def _read_likelihoods(
    given: Any, gold: Any, items: int, before: TaskRequests | None, place: str
) -> tuple[TaskRequests, TaskAnswers]:
    """The requests of a task and their log-likelihoods; neither where none are told."""
    if given is None:
        offsets, nothing = np.zeros(items + 1, np.int64), _count_ones(0)
        none = SplitRequests(offsets, np.full(items, -1, np.int32), nothing, nothing)
        empty = TaskAnswers(np.zeros(0, np.float32), np.zeros(0, np.uint8))
        return TaskRequests("none", METRIC, None, {"search": none}), empty

    rows = [_read_row(row, f"{place}, item {number}") for number, row in enumerate(given)]
    if len(rows) != items:
        found = f"expected log-likelihoods of {items} items, as many as have scores, found {len(rows)}"
        raise SearchError(place, found, "Tell a score and a row of log-likelihoods for each item.")

    if gold is None and before is not None:
        gold = before.splits["search"].gold.tolist()
    right = _read_gold(gold, [len(row) for row in rows], place)
    offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    sizes = _count_ones(int(offsets[-1]))
    requests = TaskRequests("choice", METRIC, None, {"search": SplitRequests(offsets, right, sizes, sizes)})
    return requests, TaskAnswers(np.concatenate(rows), np.zeros(len(sizes), np.uint8))


def _read_row(given: Any, place: str) -> NDArray[np.float32]:
    try:
        row = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise SearchError(place, f"expected log-likelihoods, found {given!r:.60}", "Tell numbers.") from error
    if row.ndim != 1 or len(row) < 2:
        remedy = "Tell a log-likelihood for each choice."
        raise SearchError(place, f"expected two choices or more, found shape {row.shape}", remedy)
    if not np.isfinite(row).all():
        raise SearchError(place, f"expected finite log-likelihoods, found {row.tolist()}", "Tell finite numbers.")
    return row


def _read_gold(given: Any, choices: Sequence[int], place: str) -> NDArray[np.int32]:
    remedy = "Tell `gold`: for each item the index of the right choice, from 0."
    if given is None:
        raise SearchError(place, "expected the right choice of each item, found log-likelihoods alone", remedy)
    right = np.asarray(given)
    if right.shape != (len(choices),) or right.dtype.kind not in "iu":
        found = f"expected {len(choices)} indices, found {right.dtype} of shape {right.shape}"
        raise SearchError(place, found, remedy)

    beyond = np.flatnonzero((right < 0) | (right >= np.asarray(choices)))
    if len(beyond):
        item = int(beyond[0])
        found = f"expected an index below {choices[item]}, found {int(right[item])}"
        raise SearchError(f"{place}, item {item}", found, remedy)
    return right.astype(np.int32)


def _describe_change(before: TaskRequests, now: TaskRequests) -> str:
    first, second = before.splits["search"], now.splits["search"]
    if before.kind != now.kind:
        words = {"choice": "log-likelihoods", "none": "no log-likelihoods"}
        return f"expected {words[before.kind]}, as at the points before, found {words[now.kind]}"
    if len(first.gold) != len(second.gold):
        return f"expected {len(first.gold)} items, as at the points before, found {len(second.gold)}"
    if not np.array_equal(first.offsets, second.offsets):
        return "expected as many choices of each item as at the points before, found others"
    return "expected the right choices that were told before, found others"


def _count_ones(length: int) -> NDArray[np.int32]:
    return np.ones(length, np.int32)
