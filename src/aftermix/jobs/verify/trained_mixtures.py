"""Mixtures that are trained for real: the choice among the measured ones, and the scores of the trained models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aftermix import progress
from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.model_files import list_input_files
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config, MergeConfig, Split, VectorConfig
from aftermix.evaluation.places import ItemPlaces
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture.baselines import MixtureBaselines
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.proxies import SAME
from aftermix.jobs.mixture.scores import UtilityScorer
from aftermix.jobs.orders.order import OtherVectorsOrder
from aftermix.jobs.parallel.tasks import MeasureTask
from aftermix.jobs.parallel.training import train_at_once
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.jobs.train.command import train
from aftermix.jobs.verify.training_file import training_config
from aftermix.mixture.rank_consistency import spread_out
from aftermix.mixture.simplex import Floats
from aftermix.runs.trials import ItemMeasurement, ItemScores, Trial
from aftermix.runs.verification_records import TrainingRecord
from aftermix.seeds import derived_seed

# N points, K domains

FOLDER = "trained"
KIND = "trained"


@dataclass(frozen=True)
class MixtureToTrain:
    """A mixture that is to be trained."""

    name: str
    """Of its folder in RUN/trained."""
    point: str
    """Origin: `uniform`, `vertex ja`, `lattice`, `winner`."""
    trial: int | None
    """The point of the run that it is, if any."""
    shares_K: Floats


def choose_mixtures(
    problem: MixtureProblem,
    trials: Sequence[Trial],
    winner: Mapping[str, float],
    count: int,
    *,
    adds_uniform: bool = False,
) -> list[MixtureToTrain]:
    """Of the measured mixtures, `count` that lie far apart: uniform, the winner, then the farthest.

    Vertices come last: there the merge is the expert itself, and ranks agree by construction. `winner` is the run's
    result as shares. With `adds_uniform` the uniform mixture is one of them though no point of a tree is; else the
    nearest to it. Raises :class:`MixtureError` when fewer were measured.
    """
    seed = problem.mixture.seed
    complete = [trial for trial in trials if trial.is_complete]
    rows_NK = problem.compute_shares(complete)
    candidates = [
        MixtureToTrain(f"point-{trial.number:03d}", trial.origin or "point", trial.number, row_K)
        for trial, row_K in zip(complete, rows_NK, strict=True)
    ]

    # The winner may be an optimum that no trial has measured.
    won_K = np.array([winner[name] for name in problem.domains])
    even_K = np.full(len(won_K), 1 / len(won_K))
    best = _find_or_add(candidates, won_K, "winner")
    if adds_uniform:
        _find_or_add(candidates, even_K, "uniform")
    rows_NK = np.stack([candidate.shares_K for candidate in candidates])

    uniform = int(np.abs(rows_NK - even_K).max(axis=1).argmin())
    mixed = np.flatnonzero(rows_NK.max(axis=1) < 1 - SAME)

    first = [row for row in (uniform, best) if row in mixed]
    apart = mixed[spread_out(rows_NK[mixed], first=np.searchsorted(mixed, first).tolist(), count=len(mixed), seed=seed)]
    rows = spread_out(rows_NK, first=apart.tolist(), count=count, seed=seed)
    return [candidates[row] for row in rows]


def _find_or_add(candidates: list[MixtureToTrain], shares_K: Floats, name: str) -> int:
    """The place of these shares among the candidates, at their end if they are not there."""
    apart = [float(np.abs(candidate.shares_K - shares_K).max()) for candidate in candidates]
    if min(apart) <= SAME:
        return int(np.argmin(apart))
    text = " ".join(f"{share:.9f}" for share in shares_K)
    candidates.append(MixtureToTrain(f"{name}-{derived_seed(0, text):016x}"[:15], name, None, shares_K))
    return len(candidates) - 1


def train_mixtures(
    config: Config,
    run: Path,
    mixtures: Mapping[str, Mapping[str, float]],
    *,
    domains: Sequence[str],
    tokens: int,
    log: Callable[[str], None] | None,
) -> dict[str, Path]:
    """Train each of `mixtures`, shares by name, on `tokens` tokens into RUN/trained; finished ones are reused.

    Workers, where the file asks for them, train one each. Raises as `train` does.
    """
    if not mixtures:
        return {}
    trained = training_config(config, domains=domains, mixtures=mixtures, tokens=tokens)
    train_at_once(trained, run, run / FOLDER)
    return train(trained, run / FOLDER, log=log)


@dataclass(frozen=True)
class TrainedItems:
    """A trained model and its item scores on the test items."""

    folder: Path
    test: ItemScores


@dataclass(frozen=True)
class TrainedMixture:
    """Item scores of one mixture, merged and trained."""

    chosen: MixtureToTrain
    folder: Path
    merged: ItemScores
    """The merge, on test items."""
    trained: ItemScores
    """The trained model, on the same."""
    search: ItemScores
    """The trained model on the search items, which the surrogates learn from."""


def measure_mixtures(
    evaluator: MergeEvaluator,
    run: Path,
    scorer: UtilityScorer,
    chosen: Sequence[MixtureToTrain],
    folders: Mapping[str, Path],
) -> list[TrainedMixture]:
    """Merge and trained model of each of `chosen` on test items, what is on disk not measured again."""
    problem, baselines = scorer.problem, MixtureBaselines.open(evaluator, scorer, run)
    score_cache = ScoreCache(run, evaluator.tasks)

    splits: tuple[Split, ...] = ("test", "search")
    baselines.announce_all([problem.compute_weights(mixture.shares_K) for mixture in chosen], "test")
    for mixture in chosen:
        folder = folders[mixture.name]
        for split in splits:
            announce = partial(evaluator.announce, _build_task(problem, folder))
            score_cache.announce_scores(_build_key(folder), split, announce)

    measured = []
    for mixture in progress.bar(chosen, label="trained mixtures", unit="model"):
        folder = folders[mixture.name]
        key, measure = _build_key(folder), partial(evaluator.measure, _build_task(problem, folder))
        merged = baselines.measure_items(problem.compute_weights(mixture.shares_K), "test")
        test, search = score_cache.scores(key, "test", measure), score_cache.scores(key, "search", measure)
        measured.append(TrainedMixture(mixture, folder, merged, test, search))
    return measured


def measure_trained_model(
    evaluator: MergeEvaluator, problem: MixtureProblem, folder: Path, score_cache: ScoreCache
) -> TrainedItems:
    """A trained model on the test items, measured now or kept from before."""
    measure = partial(evaluator.measure, _build_task(problem, folder))
    return TrainedItems(folder, score_cache.scores(_build_key(folder), "test", measure))


def _build_key(folder: Path) -> str:
    """A name for a trained model in file names: another recipe is another name."""
    recipe = read_train_record(folder).recipe
    return f"{KIND} {folder.name} {derived_seed(0, json.dumps(recipe, sort_keys=True)):016x}"


def read_train_record(folder: Path) -> TrainingRecord:
    """`train.json` of a trained model."""
    return TrainingRecord.read(folder / TRAINING_FILE)


def _build_task(problem: MixtureProblem, folder: Path) -> MeasureTask:
    """The trained model in place of the experts: at 1, beside the instruction vectors as in every merge of the run."""
    return MeasureTask(f"{KIND} {folder}", partial(_measure_trained, dict(problem.instruction), folder.resolve()))


def _measure_trained(
    instruction: Mapping[str, float], folder: Path, evaluator: MergeEvaluator, split: Split, places: ItemPlaces | None
) -> ItemMeasurement:
    config, name = evaluator.config, folder.name
    fixed = {vector: config.vectors[vector] for vector in instruction}
    merge = _build_merge(config.merge)
    alone = config.model_copy(update={"vectors": {**fixed, name: VectorConfig(model=str(folder))}, "merge": merge})

    pool = open_pool(alone)
    weights = {vector: weight * config.merge.scale for vector, weight in instruction.items()}
    order = OtherVectorsOrder(alone, {**weights, name: 1.0})
    with InputStamps.take(list_input_files(pool)).watch():
        return evaluator.model_evaluator.measure(order, evaluator.merges, split, places=places)


def _build_merge(merge: MergeConfig) -> MergeConfig:
    """The merge that adds a trained model, with the options of the file's that hold for it too."""
    return MergeConfig(
        method="task_arithmetic",
        exclude=merge.exclude,
        seed=merge.seed,
        dtype=merge.dtype,
        vocabulary=merge.vocabulary,
    )
