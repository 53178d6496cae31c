"""`aftermix average`: one model from the checkpoints of one run, in place of a learning rate that decays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.writer import refuse_occupied
from aftermix.config import Config, MergeConfig, VectorConfig, require
from aftermix.errors import TrainingError
from aftermix.files import format_json, write_json
from aftermix.jobs.average.distributed import average_as_dcp
from aftermix.jobs.average.run_checkpoints import RunCheckpoint, find_checkpoints
from aftermix.jobs.merge.command import merge
from aftermix.training.averaging import compute_decay_weights
from aftermix.training.schedules import DecayShape

RESULT = "average.json"
TensorNames = Mapping[str, str | tuple[str, ...]]
"""`tensor_names` of a file."""


def average(
    checkpoints: Sequence[Path],
    output: Path,
    *,
    last: int | None = None,
    best: int | None = None,
    by: Config | None = None,
    decay: DecayShape | None = None,
    min_rate: float | None = None,
    names: TensorNames | None = None,
    as_dcp: bool = False,
    log: Callable[[str], object] = lambda _: None,
) -> Path:
    """Merge checkpoints of one run into the new model folder `output`, with its recipe and an `average.json`.

    `checkpoints` are model folders that `train` or transformers' Trainer wrote, or folders of these. All of them are
    taken, or the `last` few by tokens or steps, or the `best` few by the objective of `by` on its select items. They
    have equal weights, or those of :func:`compute_decay_weights` down to `min_rate` (default 0). `names` is the map of
    names for distributed checkpoints; with `as_dcp` the result is one, under the names that training saved.
    Raises :class:`AftermixError` before anything is written.
    """
    _refuse_useless(last=last, best=best, by=by, decay=decay, min_rate=min_rate)
    refuse_occupied(output)
    chosen = find_checkpoints(checkpoints)

    if best is not None and by is not None:
        chosen = _choose_best(chosen, _check_count("--best", best, chosen), by, names, log)
    elif last is not None:
        chosen = chosen[-_check_count("--last", last, chosen) :]
    if decay is not None:
        _refuse_decayed(chosen)

    weighted = _weigh_checkpoints(chosen, decay, min_rate or 0.0)
    for checkpoint in weighted:
        log(f"{checkpoint.name}: weight {checkpoint.weight:.4f}")

    records = [
        {"folder": str(each.folder), each.unit: each.place, "weight": each.weight, "select": each.score}
        for each in weighted
    ]
    result = {"decay": decay, "min_rate": (min_rate or 0.0) if decay else None, "checkpoints": records}
    config = _build_config([checkpoint for checkpoint in weighted if checkpoint.weight], names)
    if as_dcp:
        return average_as_dcp(config, output, companions={RESULT: format_json(result).encode()})
    folder = merge(config, output, log=log)
    write_json(folder / RESULT, result)
    return folder


def _refuse_useless(
    *, last: int | None, best: int | None, by: Config | None, decay: DecayShape | None, min_rate: float | None
) -> None:
    """Raise :class:`TrainingError` for options that need or exclude each other."""
    if last is not None and best is not None:
        raise TrainingError("--last", "excludes --best", "Name one of the two.")
    if best is not None and by is None:
        raise TrainingError("--best", "nothing says how to score", "Add --by FILE, a file with `evaluate:`.")

    if best is not None and decay is not None:
        raise TrainingError("--best", "a decay needs checkpoints in a row", "Use --last with --decay.")
    if by is not None and best is None:
        raise TrainingError(
            "--by", "says how to score, but nothing is chosen by score", "Add --best N, or leave it out."
        )

    if min_rate is not None and decay is None:
        raise TrainingError(
            "--min-rate", "is the end of a decay, and none is asked for", "Add --decay, or leave it out."
        )


def _refuse_decayed(checkpoints: Sequence[RunCheckpoint]) -> None:
    """Raise :class:`TrainingError` where the rate decayed in training, and so would decay twice."""
    schedule = checkpoints[-1].describe_rate(since=checkpoints[0])
    if schedule != "constant":
        found = f"the rate of this run was {schedule} already" if schedule else "nothing tells the rate of this run"
        raise TrainingError("--decay", found, "Leave it out, or train with `schedule: constant`.")


def _check_count(option: str, count: int, checkpoints: Sequence[RunCheckpoint]) -> int:
    if not 2 <= count <= len(checkpoints):
        found = f"expected 2 to {len(checkpoints)}, as many as there are checkpoints, found {count}"
        raise TrainingError(option, found, "Correct the number.")
    return count


def _weigh_checkpoints(
    checkpoints: list[RunCheckpoint], decay: DecayShape | None, min_rate: float
) -> list[RunCheckpoint]:
    if decay is None:
        return [replace(checkpoint, weight=1 / len(checkpoints)) for checkpoint in checkpoints]

    weights = compute_decay_weights([checkpoint.place for checkpoint in checkpoints], decay, min_rate=min_rate)
    return [replace(checkpoint, weight=weight) for checkpoint, weight in zip(checkpoints, weights, strict=True)]


def _build_config(checkpoints: Sequence[RunCheckpoint], names: TensorNames | None = None) -> Config:
    vectors = {
        checkpoint.name: VectorConfig(model=str(checkpoint.folder), weight=checkpoint.weight)
        for checkpoint in checkpoints
    }
    return Config(vectors=vectors, merge=MergeConfig(method="linear"), tensor_names=dict(names or {}))


def _choose_best(
    checkpoints: list[RunCheckpoint],
    count: int,
    by: Config,
    names: TensorNames | None,
    log: Callable[[str], object],
) -> list[RunCheckpoint]:
    """The `count` checkpoints with the highest objective on the select items, in order; ties go to the later one."""
    from aftermix.jobs.evaluate.opening import open_task_suite
    from aftermix.jobs.evaluate.own_tasks import settle_tasks
    from aftermix.jobs.evaluator import ModelEvaluator
    from aftermix.merging.merge import Merger
    from aftermix.merging.recipe import MergeRecipe
    from aftermix.merging.stream import stream_merged_tensors
    from aftermix.runs.trials import average_scores
    from aftermix.search.objective import ObjectiveSet

    require(by, "evaluate")
    by = settle_tasks(by)
    assert by.evaluate is not None  # noqa: S101 - required above; for the type checker
    suite = open_task_suite(by.evaluate)
    objectives = ObjectiveSet.build(by.search.objective, tasks=list(suite.tasks))

    config = _build_config(checkpoints, names)
    pool = open_pool(config)
    merger = Merger.build(pool, MergeRecipe.from_config(config.merge, vectors=config.vectors))
    evaluator = ModelEvaluator.open(pool, by.evaluate, suite)
    evaluator.rehearse(by.evaluate)

    # Each checkpoint by itself is the merge that has all weight on it.
    scored = []
    for checkpoint in checkpoints:
        weights = {other.name: float(other is checkpoint) for other in checkpoints}
        scores = average_scores(evaluator.evaluate(stream_merged_tensors(merger, weights), "select").items)
        scored.append(replace(checkpoint, score=fmean(objectives.values(scores))))
        log(f"{checkpoint.name}: {scored[-1].score:.4f} on the select items")

    ranked = sorted(scored, key=lambda checkpoint: (checkpoint.score or 0.0, checkpoint.place), reverse=True)
    return sorted(ranked[:count], key=lambda checkpoint: checkpoint.place)
