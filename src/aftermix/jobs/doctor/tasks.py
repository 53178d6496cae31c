"""Faults of the tasks: every prompt of every split built and counted in tokens, without weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftermix.checkpoints.model import Model
from aftermix.config import Config, Split
from aftermix.errors import AftermixError, Problem
from aftermix.evaluation.engines.hf import open_planning_model
from aftermix.evaluation.items import SPLITS
from aftermix.evaluation.rehearsal import count_cut_prompts, find_largest_scores
from aftermix.evaluation.suites.contract import list_text_tasks
from aftermix.evaluation.suites.harness_suite import HarnessSuite
from aftermix.jobs.doctor.budget import list_budget_notes
from aftermix.search.objective import ObjectiveSet

SHARE_AT_MOST = 1.0
"""Scores up to this are shares; a larger one is of another scale."""


@dataclass(frozen=True)
class PromptExamination:
    """Faults of prompts, which stop a job, and notes, which do not."""

    problems: list[Problem]
    notes: list[Problem]


def examine_prompts(
    suite: HarnessSuite, config: Config, *, sources: tuple[Model, Path], objectives: ObjectiveSet | None
) -> PromptExamination:
    """Build and count the prompts of all splits as the model of `sources` (model, folder of the tokenizer) gets them.

    Prompts that lose their beginning are noted. Of a search, which has `objectives`, means over scores of unlike scales
    are, and a budget that its first design exceeds.
    """
    assert config.evaluate is not None  # noqa: S101 - it has tasks; for the type checker
    model, tokenizer_folder = sources
    try:
        lm = open_planning_model(model, tokenizer_folder=tokenizer_folder, config=config.evaluate)
        problems = [
            problem
            for split in SPLITS
            for task, instances in suite.list_requests(split, lm).items()
            for problem in _find_faults(lm, task, instances)
        ]
    except AftermixError as error:
        return PromptExamination(list(error.problems), [])
    if problems:
        return PromptExamination(list(dict.fromkeys(problems)), [])

    notes = list(_describe_cut_prompts(count_cut_prompts(suite, lm), lm.max_length))
    if objectives is None:
        return PromptExamination([], notes)
    notes += _list_scale_remarks(find_largest_scores(suite, lm), objectives)
    notes += _list_unit_remarks(list_text_tasks(suite), objectives)
    try:
        return PromptExamination([], [*notes, *list_budget_notes(config, suite, lm)])
    except AftermixError as error:
        return PromptExamination(list(error.problems), notes)


def _list_scale_remarks(largest: Mapping[str, float], objectives: ObjectiveSet) -> Iterator[Problem]:
    """Note every objective that is a mean over scores of unlike scales, as right answers show them."""
    for goal in objectives.goals:
        shares = sorted(task for task in goal.weights if largest.get(task, math.inf) <= SHARE_AT_MOST)
        others = sorted(task for task in goal.weights if largest.get(task, 0.0) > SHARE_AT_MOST)
        if shares and others:
            found = f"'{others[0]}' scores up to {largest[others[0]]:g}, '{shares[0]}' up to {largest[shares[0]]:g}"
            remedy = "In one mean the larger scale decides: weigh them in `search.objective`, or give each its own."
            yield Problem(f"objective '{goal.name}'", found, remedy)


def _list_unit_remarks(texts: Sequence[str], objectives: ObjectiveSet) -> Iterator[Problem]:
    """Note every objective that is a mean over bits per byte and over scores of another unit."""
    for goal in objectives.goals:
        of_texts, others = (
            sorted(task for task in goal.weights if (task in texts) == is_text) for is_text in (True, False)
        )
        if of_texts and others:
            found = f"'{of_texts[0]}' scores minus its bits per byte, '{others[0]}' in another unit"
            remedy = "A bit and a point are not worth the same: weigh them in `search.objective`, or give each its own."
            yield Problem(f"objective '{goal.name}'", found, remedy)


def _find_faults(lm: Any, task: str, instances: Sequence[Any]) -> list[Problem]:
    try:
        lm.count_request_tokens(instances)
    except AftermixError as error:
        return [
            each if task in each.where else Problem(f"task '{task}': {each.where}", each.found, each.remedy)
            for each in error.problems
        ]
    return []


def _describe_cut_prompts(cut: Mapping[str, Mapping[Split, int]], length: int) -> Iterator[Problem]:
    for task, by_split in cut.items():
        counts = ", ".join(f"{split} {count}" for split, count in by_split.items())
        found = f"prompts that lose their beginning, being longer than the model's {length} tokens: {counts}"
        yield Problem(f"task '{task}'", found, "Raise `evaluate.max_length` if the model can, or lower `num_fewshot`.")
