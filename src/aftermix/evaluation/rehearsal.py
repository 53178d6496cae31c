"""A look at the tasks before anything is measured: prompts that are cut, first items scored, ranges of the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from aftermix.config import Split
from aftermix.errors import AftermixError, EvaluationError
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.items import SPLITS
from aftermix.evaluation.quiet import quiet
from aftermix.evaluation.requests import LeafRequests, collect_answers, forget_answers, score_items
from aftermix.evaluation.scoring.probe import find_largest_value

TIMED_BATCHES = 3
"""Batches by whose time the number of threads is chosen."""
RANGED_ITEMS = 20
"""Items of a leaf whose made-up answers are scored for the range of its metric."""


def count_cut_prompts(suite: TaskSuite, lm: Any, *, splits: Sequence[Split] = SPLITS) -> dict[str, dict[Split, int]]:
    """Task -> split -> requests whose prompt exceeds the length of `lm` and loses its beginning; none: no entry."""
    counts: dict[str, dict[Split, int]] = {}
    for split in splits:
        by_task = suite.list_requests(split, lm)
        together = [instance for instances in by_task.values() for instance in instances]
        # A split that was scored has a plan already; where nothing of it is cut, no task needs one of its own.
        if lm.has_planned(together) and not lm.count_cut_prompts(together):
            continue
        for task, instances in by_task.items():
            cut = lm.count_cut_prompts(instances)
            if cut:
                counts.setdefault(task, {})[split] = cut
    return counts


def score_first_items(suite: TaskSuite, lm: Any) -> None:
    """Score one search item of each leaf task and kind of request with the weights that `lm` has.

    Raises :class:`EvaluationError` naming the item that cannot be answered or scored: before the first trial, and not
    as the fault of its weights.
    """
    for parts in suite.build_split("search", lm).values():
        for part in parts:
            for first in _choose_first_items(part):
                with quiet(suite.heard):
                    _score_item(first, lm)


def list_sample_batches(suite: TaskSuite, lm: Any) -> list[Callable[[], None]]:
    """Batches of search requests, spread over the tasks, each to be run for its time by `lm`, a live model."""
    requests = [instance for instances in suite.list_requests("search", lm).values() for instance in instances]
    size = min(lm.batch_size, len(requests))
    starts = [(len(requests) - size) * number // (TIMED_BATCHES - 1) for number in range(TIMED_BATCHES)]
    return [partial(lm.run_briefly, requests[start : start + size]) for start in starts]


def find_largest_scores(suite: TaskSuite, lm: Any) -> dict[str, float]:
    """Task -> largest magnitude that its metric gives right, made-up answers; without tasks that cannot tell."""
    largest: dict[str, float] = {}
    for task, parts in suite.build_split("search", lm).items():
        if suite.primary[task].weighting == "bytes":  # how likely a text is has no largest value
            continue
        values = [
            find_largest_value(
                part.leaf, [group[0].doc for group in part.instances[:RANGED_ITEMS]], suite.primary[task]
            )
            for part in parts
        ]
        known = [value for value in values if value is not None]
        if known:
            largest[task] = max(known)
    return largest


def _choose_first_items(part: LeafRequests) -> Iterator[LeafRequests]:
    """The first item of each kind of request, by itself."""
    seen: set[tuple[str, ...]] = set()
    for item, group in zip(part.items, part.instances, strict=True):
        kinds = tuple(sorted({instance.request_type for instance in group}))
        if kinds not in seen:
            seen.add(kinds)
            yield replace(part, items=(item,), instances=(group,))


def _score_item(first: LeafRequests, lm: Any) -> None:
    instances, item = first.list_instances(), first.items[0]
    try:
        collect_answers(lm, instances)
        score_items(first)
    except AftermixError as error:
        problem = error.problem
        where = problem.where if item in problem.where else f"item '{item}': {problem.where}"
        raise EvaluationError(where, problem.found, problem.remedy) from error
    finally:
        forget_answers(instances)
