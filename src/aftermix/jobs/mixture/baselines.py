"""Mixtures that are merged and measured outside the design: each once, on select and on test items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aftermix import progress
from aftermix.config import Split
from aftermix.jobs.evaluator import Bench
from aftermix.jobs.mixture.problem import TOKENS, UNIFORM, Setting
from aftermix.jobs.mixture.scores import Scoring
from aftermix.jobs.search.baselines import Baseline
from aftermix.jobs.search.score_cache import Contest
from aftermix.runs.trials import ItemScores, Measurement, Point, Weights
from aftermix.seeds import derived_seed

BASE = "base"
LABELS = {UNIFORM: "uniform", TOKENS: "in proportion to tokens"}
Compared = tuple[str, str, Weights | None]
"""Name, kind, and the merge that stands for it; None for the base."""


@dataclass(frozen=True)
class Comparison:
    """Baselines of a mixture: merges measured once and kept, and their records."""

    bench: Bench
    scoring: Scoring
    contest: Contest

    @classmethod
    def of(cls, bench: Bench, scoring: Scoring, folder: Path) -> Comparison:
        """Open the scores kept in `folder`: a merge that stands there is not measured again."""
        contest = Contest(folder, bench.tasks, scoring.objectives, lambda what, split: _measure(bench, what, split))
        return cls(bench, scoring, contest)

    def items(self, weights: Weights, split: Split) -> ItemScores:
        """Item scores of one merge, measured now or kept from before."""
        return self.contest.items(Baseline(_key(weights), "mixture", weights), split)

    def records(self, winner: ItemScores, compared: list[Compared]) -> list[dict[str, Any]]:
        """The mixtures that have to be beaten, on test items, as `baselines` of `best.json`."""
        records = []
        for name, kind, weights in progress.bar(compared, label="Baselines", unit="model"):
            if weights is None:
                items = self.contest.items(Baseline(BASE, BASE, {}), "test")
            else:
                items = self.items(weights, "test")

            records.append(
                {
                    "name": name,
                    "kind": kind,
                    "method": self.bench.merger.recipe.method.name,
                    "density": None,
                    "weights": weights or {},
                    "test": self.scoring.summary(items),
                    "difference": self.scoring.difference(winner, items),
                }
            )
        return records


def compared_mixtures(setting: Setting) -> Iterator[Compared]:
    """Mixtures that need no search, and the base."""
    for name, row_K in setting.named_mixtures.items():
        yield LABELS.get(name, f"prior {name}"), "mixture", setting.weights(row_K)
    for name, row_K in zip(setting.domains, np.eye(len(setting.domains)), strict=True):
        yield f"{name} alone", "expert", setting.weights(row_K)
    yield BASE, BASE, None


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
