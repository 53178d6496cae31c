"""Evaluations of a search or a mixture by split, and the tokens that they take, counted before the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aftermix.config import Config, SearchConfig, Split
from aftermix.jobs.compare.contest_counts import ContestCounts
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.plan.counts import count_mixture_measurements, count_search_measurements
from aftermix.jobs.plan.earlier import EarlierScores
from aftermix.search.budget import build_budget

SPLITS: tuple[Split, ...] = ("search", "select", "test")


@dataclass(frozen=True)
class PlannedRuns:
    """Trials of a search as its budget allows, and the positions that these and its finalists compute."""

    wanted: int
    """New trials that the file asks for."""
    runs: int
    """Those of them that are run."""
    reused: int
    """Merges of an earlier run, which stand among the trials."""
    finalists: int
    positions: int
    """Those of scoring `reused` on further tasks included."""
    limit: int | None
    """`search.budget_tokens`."""

    @classmethod
    def count(cls, search: SearchConfig, model: ModelEvaluator, earlier: EarlierScores) -> PlannedRuns:
        """Those of `search` after the merges of `earlier`.

        Raises :class:`ConfigError` for a budget that two new trials exceed.
        """
        trial, finalist = model.count_positions("search"), model.count_finalist_positions(search)
        wanted = runs = max(0, search.trials - earlier.saved)
        if search.budget_tokens is not None:
            asked = search.model_copy(update={"trials": wanted})
            budget = build_budget(asked, trial_tokens=trial, finalist_tokens=finalist)
            runs = min(wanted, budget.count_trials(earlier.reused))

        finalists = min(search.top, max(runs + earlier.taken, 1))
        positions = earlier.rescored_positions + runs * trial + finalists * finalist
        return cls(wanted, runs, earlier.taken, finalists, positions, search.budget_tokens)

    def describe(self, items: Mapping[str, Mapping[str, int]]) -> str:
        """`57 of 100 runs x 300 search items, 3 finalists x 900 select items: 1,200,000 of 1,300,000 tokens`

        After 24 merges of an earlier run it is `33 of 40 runs after 24 reused x 300 search items, ...`. `items`: task,
        split, number of its items.
        """
        search_items, select_items = (sum(counts[split] for counts in items.values()) for split in ("search", "select"))
        cut = f"{self.runs:,} of {self.wanted:,}" if self.runs < self.wanted else f"{self.runs:,}"
        reused = f" after {self.reused:,} reused" if self.reused else ""
        within = f" of {self.limit:,}" if self.limit is not None else ""
        return (
            f"{cut} runs{reused} x {search_items:,} search items, {self.finalists} finalists x {select_items:,} select "
            f"items: {self.positions:,}{within} tokens"
        )


@dataclass(frozen=True)
class PlannedMeasurements:
    """Evaluations of a job, those of compared models included."""

    counts: Mapping[Split, int]
    """By split; merges that an earlier run gives are not among them."""
    tokens: Mapping[Split, int]
    """Tokens through the model by split, with what earlier merges are scored on anew."""
    runs: str = ""
    """Runs by items of a search, and what they cost of its budget; empty of a mixture."""

    @classmethod
    def count_search(
        cls, config: Config, model: ModelEvaluator, *, contest: ContestCounts, earlier: EarlierScores
    ) -> PlannedMeasurements:
        """Those of a search. Raises :class:`ConfigError` for a budget that two trials exceed."""
        planned = PlannedRuns.count(config.search, model, earlier)
        own = count_search_measurements(config) | {"search": planned.runs}
        own = {split: count - earlier.kept.get(split, 0) for split, count in own.items()}
        runs = planned.describe(model.suite.count_items())
        return cls._add_up(own, model, contest=contest, earlier=earlier, runs=runs)

    @classmethod
    def count_mixture(
        cls, config: Config, model: ModelEvaluator, *, contest: ContestCounts, earlier: EarlierScores
    ) -> PlannedMeasurements:
        """Those of a mixture. Raises what the mixture itself would on its input."""
        own = count_mixture_measurements(config)
        own["search"] = max(0, own["search"] - earlier.saved)
        return cls._add_up(own, model, contest=contest, earlier=earlier)

    @classmethod
    def _add_up(
        cls,
        own: Mapping[Split, int],
        model: ModelEvaluator,
        *,
        contest: ContestCounts,
        earlier: EarlierScores,
        runs: str = "",
    ) -> PlannedMeasurements:
        """The job's `own` evaluations and those of the contest; tokens with those of merges that are scored anew."""
        counts = {split: count + contest.measurements.get(split, 0) for split, count in own.items()}
        suite, lm = model.suite, model.engine.lm
        tokens = {split: sum(suite.count_tokens(split, lm).values()) * counts[split] for split in SPLITS}
        tokens["search"] += earlier.rescored_tokens
        return cls(counts, tokens, runs)
