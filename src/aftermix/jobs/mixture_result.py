"""`best.json` of a mixture run: surrogates, their optimum, what real merges of it scored, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aftermix import progress
from aftermix.config import Split
from aftermix.jobs.baselines import Baseline
from aftermix.jobs.contest import Contest
from aftermix.jobs.live import Bench
from aftermix.jobs.mixture_points import Learned
from aftermix.jobs.mixture_scores import Scoring, as_json, noise
from aftermix.jobs.mixture_setting import Setting
from aftermix.jobs.result import by_phase, item_counts, seconds_before, vectors_record
from aftermix.mixture.optimum import Goal, Optimum, best_measured, find_optimum, neighbours, predicted, ratio_interval
from aftermix.mixture.ratios import ratios_from_weights
from aftermix.mixture.simplex import Floats, named
from aftermix.mixture.utility import Utility
from aftermix.search.journal import read_items
from aftermix.search.objective import Objectives
from aftermix.search.records import ItemScores, Measurement, Point, Trial
from aftermix.seeds import derived_seed

# N points, K domains, M capabilities

BASE = "base"
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


@dataclass(frozen=True)
class MixtureResult:
    """All that is known when the points are measured."""

    bench: Bench
    run: Path
    setting: Setting
    trials: Sequence[Trial]
    learned: Learned
    scoring: Scoring
    goal: Goal
    optimum: Optimum
    contest: Contest

    @classmethod
    def of(
        cls, bench: Bench, run: Path, setting: Setting, *, objectives: Objectives, trials: Sequence[Trial]
    ) -> MixtureResult:
        """Fit surrogates and find their optimum."""
        learned = Learned.of(setting, trials)
        utility = setting.utility(learned.scores_NM)
        goal = setting.goal(utility)
        optimum = find_optimum(learned.surrogate, goal, setting.bounds, seed=setting.mixture.seed)
        contest = Contest(run, bench.tasks, objectives, lambda what, split: _measure(bench, what, split))
        scoring = Scoring(setting, objectives, utility)
        return cls(bench, run, setting, trials, learned, scoring, goal, optimum, contest)

    @property
    def utility(self) -> Utility:
        """What is made largest, without the pull to a prior."""
        return self.scoring.utility

    def record(self) -> dict[str, Any]:
        """Measure what is left to measure, and tell everything."""
        before = seconds_before(self.run)
        told_noise = self._noise()
        verified = self._verified()
        scores_CM = np.concatenate([self.scoring.scores(one.select) for one in verified])
        winner = verified[self.utility.best(scores_CM)]
        weights = self.setting.weights(winner.shares_K)
        test = self._items(winner.shares_K, "test")
        config, recipe = self.bench.config, self.bench.merger.recipe
        return {
            "winner": {
                "trial": winner.trial.number if winner.trial else None,
                "point": winner.name,
                "method": recipe.method.name,
                "options": recipe.method.options | {"lambda": recipe.scale, "seed": recipe.seed},
                "exclude": list(recipe.exclude),
            },
            "weights": weights,
            "settings": {},
            "ratios": ratios_from_weights(weights, self.setting.domains),
            "ratios_note": None,
            "vectors": vectors_record(config),
            "capabilities": {name: list(tasks) for name, tasks in self.setting.capabilities.items()},
            "utility": as_json(self.utility),
            "objective": self.scoring.objectives.as_json(),
            "metrics": {task: str(metric) for task, metric in self.bench.live.suite.primary.items()},
            "points": {
                "measured": len(self.learned.shares_NK),
                "failed": len(self.trials) - len(self.learned.shares_NK),
            },
            "surrogates": self._surrogates(),
            "noise": told_noise,
            "optimum": self._optimum(),
            "verified": [self._told(one) for one in verified],
            "search": self._on_search(winner),
            "select": self.scoring.summary(winner.select),
            "test": self.scoring.summary(test),
            "floors_met": bool(self.utility.violation(self.scoring.scores(winner.select))[0] == 0),
            "candidates": [self._candidate(one) for one in verified],
            "front": None,
            "baselines": self._baselines(test),
            "scan": None,
            "items": item_counts(self.bench),
            "seconds": {
                "prepare": self.bench.prepare_s,
                "search": by_phase([trial.seconds for trial in self.trials]),
                **{split: before[split] + self.contest.seconds.get(split, 0.0) for split in ("select", "test")},
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
        return [Verified(name, row_K, self._trial_at(row_K), self._items(row_K, "select")) for name, row_K in shown]

    def _told(self, one: Verified) -> dict[str, Any]:
        expected = predicted(self.learned.surrogate, self.utility, one.shares_K, seed=self.setting.mixture.seed)
        return {
            "name": one.name,
            "trial": one.trial.number if one.trial else None,
            "shares": named(one.shares_K, self.setting.domains),
            "predicted": {"utility": expected.utility, "interval": list(expected.interval)},
            "select": self.scoring.summary(one.select),
        }

    def _candidate(self, one: Verified) -> dict[str, Any]:
        """The same in the shape that a search's candidates have."""
        return {
            "trial": one.trial.number if one.trial else None,
            "weights": self.setting.weights(one.shares_K),
            "settings": {},
            "search": self._on_search(one),
            "select": self.scoring.summary(one.select),
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
            "utility": expected.utility,
            "interval": list(expected.interval),
            "scores": {name: {"mean": float(mean), "sd": float(sd)} for name, mean, sd in moments},
            "floors_met": self.optimum.floors_met,
            "averaged": self.optimum.averaged,
        }

    def _baselines(self, winner: ItemScores) -> list[dict[str, Any]]:
        """Mixtures that need no search, and the base, on test items."""
        records = []
        for name, kind, shares_K in progress.bar(self._compared(), label="Baselines", unit="model"):
            if shares_K is None:
                weights, items = {}, self.contest.items(Baseline(BASE, BASE, {}), "test")
            else:
                weights, items = self.setting.weights(shares_K), self._items(shares_K, "test")
            records.append(
                {
                    "name": name,
                    "kind": kind,
                    "method": self.bench.merger.recipe.method.name,
                    "density": None,
                    "weights": weights,
                    "test": self.scoring.summary(items),
                    "difference": self.scoring.difference(winner, items),
                }
            )
        return records

    def _compared(self) -> list[tuple[str, str, Floats | None]]:
        labels = {"uniform": "uniform", "tokens": "in proportion to tokens"}
        known = self.setting.named_mixtures.items()
        found: list[tuple[str, str, Floats | None]] = [
            (labels.get(name, f"prior {name}"), "mixture", row_K) for name, row_K in known
        ]
        corners = np.eye(len(self.setting.domains))
        found += [(f"{name} alone", "expert", row_K) for name, row_K in zip(self.setting.domains, corners, strict=True)]
        return [*found, (BASE, BASE, None)]

    def _trial_at(self, shares_K: Floats) -> Trial | None:
        """The complete trial that measured these shares."""
        complete = [trial for trial in self.trials if trial.is_complete]
        apart_N = np.abs(self.setting.shares(complete) - shares_K).max(axis=1)
        return complete[int(apart_N.argmin())] if apart_N.min() <= SAME else None

    def _items(self, shares_K: Floats, split: Split) -> ItemScores:
        """Item scores of one mixture, measured now or kept from before."""
        weights = self.setting.weights(shares_K)
        return self.contest.items(Baseline(_key(weights), "mixture", weights), split)


def _key(weights: Mapping[str, float]) -> str:
    """A name for a mixture in file names.

    >>> _key({"ja": 0.25, "math": 0.75})
    'mixture 1a29e11802f1ba56'
    """
    return f"mixture {derived_seed(0, 'mixture', *(f'{name} {weights[name]!r}' for name in sorted(weights))):016x}"


def _measure(bench: Bench, what: Baseline, split: Split) -> Measurement:
    if what.kind == BASE:
        return bench.measure_baseline(what, split)
    return bench.measure(Point(dict(what.weights)), split)
