"""`best.json` of a mixture run: surrogates, their optimum, what real merges of it scored, and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aftermix import progress
from aftermix.config import Split
from aftermix.jobs.evaluator import Bench
from aftermix.jobs.mixture.baselines import Comparison, compared_mixtures
from aftermix.jobs.mixture.points import Learned
from aftermix.jobs.mixture.problem import Setting
from aftermix.jobs.mixture.scores import Scoring, as_json, noise
from aftermix.jobs.search.result import (
    by_phase,
    item_counts,
    merge_record,
    metrics_record,
    seconds_before,
    vectors_record,
)
from aftermix.mixture.optimum import (
    Goal,
    Optimum,
    Prediction,
    best_measured,
    find_optimum,
    neighbours,
    predicted,
    ratio_interval,
)
from aftermix.mixture.ratios import ratios_from_weights
from aftermix.mixture.simplex import Floats, named
from aftermix.mixture.utility import Utility
from aftermix.runs.journal import read_items
from aftermix.runs.trials import ItemScores, Trial, Weights
from aftermix.search.objective import Objectives

# N points, K domains, M capabilities

SAME = 1e-9
"""Shares that differ by no more are those of one measurement."""


@dataclass(frozen=True)
class Verified:
    """One mixture that was merged and measured on the select items."""

    name: str
    shares_K: Floats
    trial: Trial | None
    """The point of the design that it is, if any."""
    select: ItemScores
    told: dict[str, Any]
    """The summary of `select`."""


@dataclass(frozen=True)
class MixtureResult:
    """Result of a run whose points are measured: surrogates, their optimum, and what real merges of it scored."""

    bench: Bench
    run: Path
    setting: Setting
    trials: Sequence[Trial]
    learned: Learned
    scoring: Scoring
    goal: Goal
    optimum: Optimum
    comparison: Comparison

    @classmethod
    def of(
        cls,
        bench: Bench,
        run: Path,
        setting: Setting,
        *,
        objectives: Objectives,
        trials: Sequence[Trial],
        measured: Path | None = None,
    ) -> MixtureResult:
        """Fit surrogates and find their optimum. `measured` keeps what is measured now; by default the run does."""
        learned = Learned.of(setting, trials)
        utility = setting.utility(learned.scores_NM)
        goal = setting.goal(utility)
        optimum = find_optimum(learned.surrogate, goal, setting.bounds, seed=setting.mixture.seed)
        scoring = Scoring(setting, objectives, utility)
        comparison = Comparison.of(bench, scoring, measured or run)
        return cls(bench, run, setting, trials, learned, scoring, goal, optimum, comparison)

    @property
    def utility(self) -> Utility:
        """The utility that is made largest, without the pull to a prior."""
        return self.scoring.utility

    def record(self) -> dict[str, Any]:
        """Measure what is left to measure, and tell everything: what was found, and how it stands on test items."""
        found = self.found()
        test = self.comparison.items(found["weights"], "test")
        baselines = self.comparison.records(test, list(compared_mixtures(self.setting)))
        found["seconds"]["test"] += self.comparison.contest.seconds.get("test", 0.0)
        return found | {"test": self.scoring.summary(test), "baselines": baselines}

    def found(self) -> dict[str, Any]:
        """Measure what decides the winner; all of `best.json` but the comparison on test items."""
        before = seconds_before(self.run)
        told_noise = self._noise()
        verified = self._verified()
        scores_CM = np.concatenate([self.scoring.scores(one.select) for one in verified])

        winner = verified[self.utility.best(scores_CM)]
        weights = self.setting.weights(winner.shares_K)
        trial = winner.trial.number if winner.trial else None

        return {
            "winner": {"trial": trial, "point": winner.name, **merge_record(self.bench.merger.recipe)},
            **merged_record(self.bench, self.scoring, weights),
            "points": {
                "measured": len(self.learned.shares_NK),
                "failed": len(self.trials) - len(self.learned.shares_NK),
            },
            "surrogates": self._surrogates(),
            "noise": told_noise,
            "optimum": self._optimum(),
            "verified": [self._told(one) for one in verified],
            "search": self._on_search(winner),
            "select": winner.told,
            "floors_met": floors_met(self.scoring, winner.select),
            "candidates": [self._candidate(one) for one in verified],
            "seconds": {
                "prepare": self.bench.prepare_s,
                "search": by_phase([trial.seconds for trial in self.trials]),
                "select": before["select"] + self.comparison.contest.seconds.get("select", 0.0),
                "test": before["test"],
            },
        }

    def _noise(self) -> dict[str, Any]:
        """The anchors of the design, measured on select items too."""
        design, pairs = self.setting.design, {}
        for place in design.repeats:
            trial = self._trial_at(design.weights_NK[place])
            if trial is not None:
                items = self._items(self.setting.shares([trial])[0], "select")
                search_1M = self.setting.scores([trial.scores])
                pairs[design.kinds[place]] = (search_1M[0], self.scoring.scores(items)[0])
        return noise(pairs, list(self.setting.capabilities))

    def _verified(self) -> list[Verified]:
        """The optimum, its neighbours and the best measured point, on select items."""
        mixture, bounds = self.setting.mixture, self.setting.bounds
        near_CK = neighbours(
            self.learned.surrogate, self.goal, bounds, self.optimum.weights_K, count=mixture.verify, seed=mixture.seed
        )

        wanted = [("optimum", self.optimum.weights_K)]
        wanted += [(f"neighbour {place}", row_K) for place, row_K in enumerate(near_CK, 1)]
        place = best_measured(self.learned.shares_NK, self.learned.scores_NM, self.utility, bounds)
        if place is not None:
            wanted.append(("best measured", self.learned.shares_NK[place]))

        shown = progress.bar(wanted, label="verify", unit="merge")
        return [self._measured(name, row_K) for name, row_K in shown]

    def _measured(self, name: str, shares_K: Floats) -> Verified:
        items = self._items(shares_K, "select")
        return Verified(name, shares_K, self._trial_at(shares_K), items, self.scoring.summary(items))

    def _told(self, one: Verified) -> dict[str, Any]:
        expected = predicted(self.learned.surrogate, self.utility, one.shares_K, seed=self.setting.mixture.seed)
        return {
            "name": one.name,
            "trial": one.trial.number if one.trial else None,
            "shares": named(one.shares_K, self.setting.domains),
            "predicted": foretold(expected),
            "select": one.told,
        }

    def _candidate(self, one: Verified) -> dict[str, Any]:
        """The same in the shape that a search's candidates have."""
        return {
            "trial": one.trial.number if one.trial else None,
            "weights": self.setting.weights(one.shares_K),
            "settings": {},
            "search": self._on_search(one),
            "select": one.told,
        }

    def _on_search(self, one: Verified) -> dict[str, Any] | None:
        return self.scoring.summary(read_items(self.run, "search", one.trial.number)) if one.trial else None

    def _surrogates(self) -> dict[str, Any]:
        return {
            entry.capability: {
                "choice": entry.choice,
                "candidates": {name: asdict(found) for name, found in entry.candidates.items()},
            }
            for entry in self.learned.surrogate.report
        }

    def _optimum(self) -> dict[str, Any]:
        seed, domains = self.setting.mixture.seed, self.setting.domains
        expected = predicted(self.learned.surrogate, self.utility, self.optimum.weights_K, seed=seed)
        low_K, high_K = ratio_interval(self.learned.surrogate, self.goal, self.setting.bounds, seed=seed)

        ends = zip(domains, low_K, high_K, strict=True)
        moments = zip(self.setting.capabilities, expected.scores_M, expected.std_M, strict=True)
        return {
            "shares": self.optimum.shares,
            "share_intervals": {name: [float(low), float(high)] for name, low, high in ends},
            **foretold(expected),
            "scores": {name: {"mean": float(mean), "sd": float(sd)} for name, mean, sd in moments},
            "floors_met": self.optimum.floors_met,
            "averaged": self.optimum.averaged,
        }

    def _trial_at(self, shares_K: Floats) -> Trial | None:
        """The complete trial that measured these shares."""
        complete = [trial for trial in self.trials if trial.is_complete]
        apart_N = np.abs(self.setting.shares(complete) - shares_K).max(axis=1)
        return complete[int(apart_N.argmin())] if apart_N.min() <= SAME else None

    def _items(self, shares_K: Floats, split: Split) -> ItemScores:
        """Item scores of one mixture, measured now or kept from before."""
        return self.comparison.items(self.setting.weights(shares_K), split)


def foretold(expected: Prediction) -> dict[str, Any]:
    """The predicted utility with its interval; null where an expression has no value, or some draws have none."""
    value, ends = expected.utility, list(expected.interval)
    known = bool(np.isfinite(value))
    return {"utility": value if known else None, "interval": ends if known and np.isfinite(ends).all() else None}


def merged_record(bench: Bench, scoring: Scoring, weights: Weights) -> dict[str, Any]:
    """Entries of any mixture's `best.json` on its merge, its vectors and the tasks that judged it."""
    setting = scoring.setting
    return {
        "weights": weights,
        "settings": {},
        "ratios": ratios_from_weights(weights, setting.experts),
        "ratios_note": None,
        "vectors": vectors_record(bench.config),
        "capabilities": {name: list(tasks) for name, tasks in setting.capabilities.items()},
        "utility": as_json(scoring.utility),
        "objective": scoring.objectives.as_json(),
        "metrics": metrics_record(bench),
        "front": None,
        "scan": None,
        "items": item_counts(bench),
    }


def floors_met(scoring: Scoring, items: ItemScores) -> bool:
    """True if a mixture measured on `items` meets every floor."""
    return bool(scoring.utility.violation(scoring.scores(items))[0] == 0)
