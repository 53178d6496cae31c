"""Mixtures that are merged and measured outside the design: each once, on select and on test items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aftermix import progress
from aftermix.config import Split
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture.problem import TOKENS, UNIFORM, MixtureProblem
from aftermix.jobs.mixture.scores import UtilityScorer
from aftermix.jobs.search.baselines import BaselineMerge
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.runs.records import BaselineRecord
from aftermix.runs.trials import ItemScores, Point, Weights
from aftermix.seeds import derived_seed

BASE = "base"
LABELS = {UNIFORM: "uniform", TOKENS: "in proportion to tokens"}
NamedMixture = tuple[str, str, Weights | None]
"""Name, kind, and the merge that stands for it; None for the base."""


@dataclass(frozen=True)
class MixtureBaselines:
    """Baselines of a mixture: merges measured once and kept, and their records."""

    evaluator: MergeEvaluator
    scorer: UtilityScorer
    score_cache: ScoreCache

    @classmethod
    def open(cls, evaluator: MergeEvaluator, scorer: UtilityScorer, folder: Path) -> MixtureBaselines:
        """Open the scores kept in `folder`: a merge that stands there is not measured again."""
        return cls(evaluator, scorer, ScoreCache(folder, evaluator.tasks))

    def measure_items(self, weights: Weights, split: Split) -> ItemScores:
        """Item scores of one merge, measured now or kept from before."""
        return self.score_cache.scores(
            build_weights_key(weights), split, partial(self.evaluator.evaluate, Point(weights))
        )

    def announce_all(self, mixtures: Iterable[Weights], split: Split) -> None:
        """Tell that all of `mixtures` are soon measured on `split`."""
        for weights in mixtures:
            announce = partial(self.evaluator.announce_point, Point(weights))
            self.score_cache.announce_scores(build_weights_key(weights), split, announce)

    def find_file(self, weights: Weights, split: Split) -> Path:
        """The file of the item scores of a merge that is measured."""
        self.measure_items(weights, split)
        return self.score_cache.locate(build_weights_key(weights), split)

    def build_records(self, winner: ItemScores, mixtures: list[NamedMixture]) -> tuple[BaselineRecord, ...]:
        """The mixtures that have to be beaten, on test items, as `baselines` of `best.json`."""
        measure_base = partial(self.evaluator.evaluate_baseline, BaselineMerge(BASE, BASE, {}))
        self.announce_all([weights for _, _, weights in mixtures if weights is not None], "test")
        records = []
        for name, kind, weights in progress.bar(mixtures, label="Baselines", unit="model"):
            if weights is None:
                items = self.score_cache.scores(BASE, "test", measure_base)
            else:
                items = self.measure_items(weights, "test")

            records.append(
                BaselineRecord(
                    name=name,
                    kind=kind,
                    method=self.evaluator.merger.recipe.method.name,
                    density=None,
                    weights=weights or {},
                    test=self.scorer.summarise_items(items),
                    difference=self.scorer.compare_items(winner, items),
                )
            )
        return tuple(records)


def list_named_mixtures(problem: MixtureProblem) -> Iterator[NamedMixture]:
    """Mixtures that need no search, and the base."""
    for name, row_K in problem.named_mixtures.items():
        yield LABELS.get(name, f"prior {name}"), "mixture", problem.compute_weights(row_K)
    for name, row_K in zip(problem.domains, np.eye(len(problem.domains)), strict=True):
        yield f"{name} alone", "expert", problem.compute_weights(row_K)
    yield BASE, BASE, None


def build_weights_key(weights: Mapping[str, float]) -> str:
    """A name for a mixture in file names.

    >>> build_weights_key({"ja": 0.25, "math": 0.75})
    'mixture 1a29e11802f1ba56'
    """
    return f"mixture {derived_seed(0, 'mixture', *(f'{name} {weights[name]!r}' for name in sorted(weights))):016x}"
