"""A budget of tokens: trials as many as it gives, with the finalists set aside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import SearchConfig
from aftermix.errors import ConfigError, RunFailedError
from aftermix.runs.trials import ItemMeasurement, Measure, Point, Trial
from aftermix.search.budget import ReusedTrials, TokenBudget, build_budget, count_spent_tokens
from aftermix.search.space import SearchSpace
from aftermix.search.study import run_study

SPACE = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0)}, ("it",))


def measure_at(tokens: int) -> Measure:
    def measure(point: Point, split: str) -> ItemMeasurement:
        return ItemMeasurement({"a": [float(point.weights["ja"] < 0.1 * n) for n in range(5)]}, tokens=tokens)

    return measure


def run(folder: Path, budget: TokenBudget | None, *, measured: int = 10, **options: Any) -> list[Trial]:
    config = SearchConfig(**{"trials": 12, "startup": 4, **options})
    measure = measure_at(measured)
    return run_study(folder, space=SPACE, config=config, tasks=["a"], measure=measure, budget=budget)


def trial(number: int, tokens: int | None, origin: str = "sampler") -> Trial:
    state: Any = "failed" if tokens is None else "complete"
    return Trial(number=number, state=state, weights={}, objective=(0.5,), tokens=tokens, origin=origin)


@given(limit=st.integers(1, 999), trial_tokens=st.integers(20, 90), finalist=st.integers(1, 99), top=st.integers(1, 5))
def test_the_trials_that_are_promised_are_those_that_have_room(
    limit: int, trial_tokens: int, finalist: int, top: int
) -> None:
    budget = TokenBudget(limit, trial_tokens, finalist, top)
    promised = budget.count_trials()
    assert promised == 0 or budget.count_tokens(promised) <= limit
    assert budget.count_tokens(promised + 1) > limit
    ended: list[Trial] = []
    while budget.has_room(ended):
        ended.append(trial(len(ended), trial_tokens))
    assert len(ended) == promised


@given(
    limit=st.integers(1, 999),
    trial_tokens=st.integers(20, 90),
    finalist=st.integers(1, 99),
    top=st.integers(1, 5),
    count=st.integers(1, 7),
    tokens=st.integers(0, 300),
)
def test_trials_of_an_earlier_run_cost_what_scoring_them_takes(
    limit: int, trial_tokens: int, finalist: int, top: int, count: int, tokens: int
) -> None:
    budget, reused = TokenBudget(limit, trial_tokens, finalist, top), ReusedTrials(count, tokens)
    promised = budget.count_trials(reused)
    assert promised == 0 or budget.count_tokens(promised, reused) <= limit
    assert budget.count_tokens(promised + 1, reused) > limit
    ended = [trial(number, None if number else tokens, origin=f"run#{number}") for number in range(count)]
    while budget.has_room(ended):
        ended.append(trial(len(ended), trial_tokens))
    assert len(ended) == count + promised


def test_the_search_ends_before_the_trial_that_would_exceed_it(tmp_path: Path) -> None:
    budget = TokenBudget(limit=100, trial_tokens=10, finalist_tokens=20, top=2)
    trials = run(tmp_path / "cut", budget)
    assert len(trials) == 6 == budget.count_trials()
    assert [each.tokens for each in trials] == [10] * 6
    whole = run(tmp_path / "whole", None)
    assert [each.weights for each in trials] == [each.weights for each in whole[:6]]
    assert run(tmp_path / "cut", budget) == trials  # resumed, nothing more

    # More budget goes on with the batch that was proposed.
    more = run(tmp_path / "cut", replace(budget, limit=130))
    assert [each.weights for each in more] == [each.weights for each in whole[:9]]
    assert len(run(tmp_path / "cut", None)) == 12


def test_what_was_measured_counts_and_not_what_was_planned(tmp_path: Path) -> None:
    budget = TokenBudget(limit=100, trial_tokens=20, finalist_tokens=10, top=1)
    assert budget.count_trials() == 4
    assert len(run(tmp_path, budget, measured=7)) == 11  # answers that end early leave room: 77 + 20 + 10 is above


def test_failed_trials_count_as_planned_and_imported_ones_by_what_was_measured_of_them_now() -> None:
    trials = [trial(0, None, origin="run#3"), trial(1, 7), trial(2, None), trial(3, 0)]
    assert count_spent_tokens(trials, trial_tokens=10) == 17
    assert count_spent_tokens([*trials, trial(4, 5, origin="run#4")], trial_tokens=10) == 22


def test_finalists_of_a_shorter_run_are_paid_already() -> None:
    budget = TokenBudget(limit=100, trial_tokens=10, finalist_tokens=20, top=2, finalists_before=2)
    assert not budget.has_room([trial(0, 10), trial(1, 10)])
    assert budget.has_room([trial(0, 10)])


def test_a_budget_that_ends_within_the_first_design_looks_at_it_too(tmp_path: Path) -> None:
    def flat(point: Point, split: str) -> ItemMeasurement:
        return ItemMeasurement({"a": [1.0, 0.0]}, tokens=10)

    budget = TokenBudget(limit=100, trial_tokens=10, finalist_tokens=20, top=2)
    for _ in range(2):
        with pytest.raises(RunFailedError, match="all 6 trials of the first design scored the same"):
            run_study(tmp_path, space=SPACE, config=SearchConfig(trials=40), tasks=["a"], measure=flat, budget=budget)


@pytest.mark.parametrize(("trials", "top", "needed", "words"), [(9, 3, 220, "2 trials take"), (1, 3, 110, "1 trial t")])
def test_a_budget_below_two_trials_is_refused(trials: int, top: int, needed: int, words: str) -> None:
    def build(limit: int) -> TokenBudget:
        config = SearchConfig(budget_tokens=limit, trials=trials, top=top)
        return build_budget(config, trial_tokens=10, finalist_tokens=100)

    assert build(needed).count_trials() == min(2, trials)
    with pytest.raises(ConfigError) as error:
        build(needed - 1)
    assert str(error.value).startswith(f"search.budget_tokens: expected at least {needed}, which {words}")
    assert "(10 each on the search items, 100 each for finalists on the select items)" in str(error.value)
    assert f"found {needed - 1}. Raise it, or lower" in str(error.value)
