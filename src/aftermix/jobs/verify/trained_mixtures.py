"""Mixtures that are trained for real: the choice among the measured ones, and the scores of the trained models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aftermix import progress
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, Split, VectorConfig
from aftermix.jobs.evaluator import Bench
from aftermix.jobs.mixture.baselines import Comparison
from aftermix.jobs.mixture.problem import Setting
from aftermix.jobs.mixture.result import SAME
from aftermix.jobs.mixture.scores import Scoring
from aftermix.jobs.search.baselines import Baseline
from aftermix.jobs.search.score_cache import Contest
from aftermix.jobs.train.command import train
from aftermix.jobs.verify.training_file import training_of
from aftermix.merging.merge import Merger, Recipe, merged_tensors
from aftermix.mixture.rank_consistency import spread_out
from aftermix.mixture.simplex import Floats, named
from aftermix.runs.trials import ItemScores, Measurement, Trial
from aftermix.seeds import derived_seed
from aftermix.training.checkpoint_schedule import RECORD

# N points, K domains

FOLDER = "trained"
KIND = "trained"


@dataclass(frozen=True)
class Chosen:
    """A mixture that is to be trained."""

    name: str
    """Of its folder in RUN/trained."""
    point: str
    """Origin: `uniform`, `vertex ja`, `lattice`, `winner`."""
    trial: int | None
    """The point of the run that it is, if any."""
    shares_K: Floats


def chosen_mixtures(setting: Setting, trials: Sequence[Trial], winner: Mapping[str, float], count: int) -> list[Chosen]:
    """Of the measured mixtures, `count` that lie far apart: uniform, the winner, then the farthest.

    Vertices come last: there the merge is the expert itself, and ranks agree by construction. `winner` is the run's
    result as shares. Raises :class:`MixtureError` when fewer were measured.
    """
    seed = setting.mixture.seed
    complete = [trial for trial in trials if trial.is_complete]
    rows_NK = setting.shares(complete)
    named_ = [
        Chosen(f"point-{trial.number:03d}", trial.origin or "point", trial.number, row_K)
        for trial, row_K in zip(complete, rows_NK, strict=True)
    ]

    # The winner may be an optimum that no trial has measured.
    won_K = np.array([winner[name] for name in setting.domains])
    apart_N = np.abs(rows_NK - won_K).max(axis=1)
    best = int(apart_N.argmin())
    if apart_N[best] > SAME:
        best, text = len(named_), " ".join(f"{share:.9f}" for share in won_K)
        named_.append(Chosen(f"winner-{derived_seed(0, text):016x}"[:15], "winner", None, won_K))
        rows_NK = np.concatenate([rows_NK, won_K[None]])

    uniform = int(np.abs(rows_NK - 1 / rows_NK.shape[1]).max(axis=1).argmin())
    mixed = np.flatnonzero(rows_NK.max(axis=1) < 1 - SAME)

    first = [row for row in (uniform, best) if row in mixed]
    apart = mixed[spread_out(rows_NK[mixed], first=np.searchsorted(mixed, first).tolist(), count=len(mixed), seed=seed)]
    rows = spread_out(rows_NK, first=apart.tolist(), count=count, seed=seed)
    return [named_[row] for row in rows]


def train_mixtures(
    config: Config,
    run: Path,
    chosen: Sequence[Chosen],
    *,
    domains: Sequence[str],
    tokens: int,
    say: Callable[[str], None] | None,
) -> dict[str, Path]:
    """Train each of `chosen` on `tokens` tokens into RUN/trained; finished ones are reused. Raises as `train` does."""
    mixtures = {one.name: named(one.shares_K, domains) for one in chosen}
    return train(training_of(config, domains=domains, mixtures=mixtures, tokens=tokens), run / FOLDER, say=say)


@dataclass(frozen=True)
class Measured:
    """Item scores of one mixture, merged and trained."""

    chosen: Chosen
    folder: Path
    merged: ItemScores
    """The merge, on test items."""
    trained: ItemScores
    """The trained model, on the same."""
    search: ItemScores
    """The trained model on the search items, which the surrogates learn from."""


def measured_mixtures(
    bench: Bench, run: Path, scoring: Scoring, chosen: Sequence[Chosen], folders: Mapping[str, Path]
) -> list[Measured]:
    """Merge and trained model of each of `chosen` on test items, what is on disk not measured again."""
    setting, by_key = scoring.setting, {_key(folders[one.name]): folders[one.name] for one in chosen}
    comparison = Comparison.of(bench, scoring, run)
    contest = Contest(
        run,
        bench.tasks,
        scoring.objectives,
        lambda what, split: _measure_trained(bench, setting, by_key[what.name], split),
    )

    found = []
    for one in progress.bar(chosen, label="trained mixtures", unit="model"):
        trained = Baseline(_key(folders[one.name]), KIND, {})
        merged = comparison.items(setting.weights(one.shares_K), "test")
        test, search = contest.items(trained, "test"), contest.items(trained, "search")
        found.append(Measured(one, folders[one.name], merged, test, search))
    return found


def _key(folder: Path) -> str:
    """A name for a trained model in file names: another recipe is another name."""
    recipe = train_record(folder)["recipe"]
    return f"{KIND} {folder.name} {derived_seed(0, json.dumps(recipe, sort_keys=True)):016x}"


def train_record(folder: Path) -> dict[str, Any]:
    """`train.json` of a trained model."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def _measure_trained(bench: Bench, setting: Setting, folder: Path, split: Split) -> Measurement:
    """The trained model in place of the experts: at 1, beside the instruction vectors as in every merge of the run."""
    config, name = bench.config, folder.name
    fixed = {vector: config.vectors[vector] for vector in setting.instruction}
    merge = MergeConfig.model_validate({"method": "task_arithmetic", **_kept(config.merge)})
    alone = config.model_copy(update={"vectors": {**fixed, name: VectorConfig(model=str(folder))}, "merge": merge})

    pool = open_pool(alone)
    merger = Merger.of(pool, Recipe.of(merge, vectors=alone.vectors))
    weights = {vector: weight * config.merge.scale for vector, weight in setting.instruction.items()}
    return bench.live.measure(merged_tensors(merger, {**weights, name: 1.0}), split)


def _kept(merge: MergeConfig) -> dict[str, Any]:
    """The options of the file's merge that hold for a trained model too."""
    return {"exclude": merge.exclude, "seed": merge.seed, "dtype": merge.dtype, "vocabulary": merge.vocabulary}
