"""Budget of a search held against its first design, without weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aftermix.config import Config
from aftermix.errors import Problem
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.jobs.evaluator import count_finalist_positions
from aftermix.jobs.search.space_from_config import build_space
from aftermix.search.budget import TokenBudget, build_budget
from aftermix.search.proposing.first_design import count_first_design


def list_budget_notes(config: Config, suite: EvaluationSuite, lm: Any) -> Iterator[Problem]:
    """Note a budget that ends a search within its first design, whose merges no model has chosen.

    `lm` counts tokens. Raises :class:`ConfigError` where the search itself would: for a budget below two trials.
    """
    if config.search.budget_tokens is None:
        return
    trial = suite.count_positions(lm, "search", keeps_answers=True)
    finalist = count_finalist_positions(suite, lm, config.search, keeps_answers=True)
    budget = build_budget(config.search, trial_tokens=trial, finalist_tokens=finalist)

    design = min(_count_design(config, budget), config.search.trials)
    if budget.count_trials() < design:
        yield _describe_shortage(budget, design)


def _count_design(config: Config, budget: TokenBudget) -> int:
    """Merges of the first design; 0 for random points, which are one long design."""
    search = config.search
    if search.strategy == "response" and search.startup is None:
        return count_first_design(build_space(config), min(search.trials, budget.count_trials()))
    return 0 if search.strategy == "random" else search.startup_trials


def _describe_shortage(budget: TokenBudget, design: int) -> Problem:
    found = (
        f"is {budget.limit:,}, which {budget.count_trials()} trials take; the first design alone has {design}, "
        f"and takes {budget.count_tokens(design):,} with its finalists"
    )
    remedy = "Raise it, or lower `evaluate.items.search`, `evaluate.items.select` or `search.startup`."
    return Problem("search.budget_tokens", found, remedy)
