"""Evaluations of a search or a mixture by split, and the tokens that they take, counted before the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aftermix.config import Config, Split
from aftermix.jobs.compare.contest_counts import ContestCounts
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.plan.counts import (
    count_mixture_measurements,
    count_runs,
    count_search_measurements,
    describe_runs,
)
from aftermix.jobs.plan.earlier import EarlierScores

SPLITS: tuple[Split, ...] = ("search", "select", "test")


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
        cost = {"trial": model.count_positions("search"), "finalist": model.count_finalist_positions(config.search)}
        own = count_search_measurements(config) | {"search": count_runs(config, **cost)}
        runs = describe_runs(config, model.suite.count_items(), **cost)
        return cls._add_up(own, model, contest=contest, earlier=earlier, runs=runs)

    @classmethod
    def count_mixture(
        cls, config: Config, model: ModelEvaluator, *, contest: ContestCounts, earlier: EarlierScores
    ) -> PlannedMeasurements:
        """Those of a mixture. Raises what the mixture itself would on its input."""
        return cls._add_up(count_mixture_measurements(config), model, contest=contest, earlier=earlier)

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
        """The job's `own` evaluations and those of the contest, without those that the earlier run saves."""
        counts = {split: count + contest.measurements.get(split, 0) for split, count in own.items()}
        counts["search"] = max(0, counts["search"] - earlier.saved)

        suite, lm = model.suite, model.engine.lm
        tokens = {split: sum(suite.count_tokens(split, lm).values()) * counts[split] for split in SPLITS}
        tokens["search"] += earlier.rescored_tokens
        return cls(counts, tokens, runs)
