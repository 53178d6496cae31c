"""`aftermix average`: one model from the checkpoints of one run, in place of a learning rate that decays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import read_json
from aftermix.checkpoints.writer import refuse_occupied
from aftermix.config import Config, MergeConfig, VectorConfig, require
from aftermix.errors import TrainingError
from aftermix.files import write_json
from aftermix.jobs.merge.command import merge
from aftermix.training.averaging import decay_weights
from aftermix.training.checkpoint_schedule import RECORD
from aftermix.training.resuming import differences
from aftermix.training.schedules import DecayShape

RESULT = "average.json"


@dataclass(frozen=True)
class Stage:
    """One checkpoint of a run."""

    folder: Path
    tokens: int
    """Tokens seen."""
    recipe: dict[str, Any]
    score: float | None = None
    """Objective on the select items, where it was measured."""
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Its name as a vector of the recipe."""
        return f"tokens-{self.tokens:012d}"


def average(
    checkpoints: Sequence[Path],
    output: Path,
    *,
    last: int | None = None,
    best: int | None = None,
    by: Config | None = None,
    decay: DecayShape | None = None,
    min_rate: float | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Path:
    """Merge checkpoints of one run into the new model folder `output`, with its recipe and an `average.json`.

    `checkpoints` are model folders that `train` wrote, or folders of these. All of them are taken, or the `last` few by
    tokens, or the `best` few by the objective of `by` on its select items. They have equal weights, or those of
    :func:`decay_weights` down to `min_rate` (default 0).
    Raises :class:`AftermixError` before anything is written.
    """
    _refuse_useless(last=last, best=best, by=by, decay=decay, min_rate=min_rate)
    refuse_occupied(output)
    stages = found_stages(checkpoints)

    # A rate that decayed in training would decay twice.
    if decay is not None and stages[0].recipe.get("schedule") != "constant":
        found = f"the rate of this run was '{stages[0].recipe.get('schedule')}' already"
        raise TrainingError("--decay", found, "Leave it out, or train with `schedule: constant`.")

    if best is not None and by is not None:
        stages = _best(stages, _counted("--best", best, stages), by, say)
    elif last is not None:
        stages = stages[-_counted("--last", last, stages) :]

    weighted = _weighted(stages, decay, min_rate or 0.0)
    for stage in weighted:
        say(f"{stage.name}: weight {stage.weight:.4f}")

    folder = merge(_recipe([stage for stage in weighted if stage.weight]), output, say=say)
    listed = [{"folder": str(s.folder), "tokens": s.tokens, "weight": s.weight, "select": s.score} for s in weighted]
    write_json(
        folder / RESULT, {"decay": decay, "min_rate": (min_rate or 0.0) if decay else None, "checkpoints": listed}
    )
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


def found_stages(places: Sequence[Path]) -> list[Stage]:
    """The checkpoints in `places` by tokens; one that is there twice (the last one and the expert) counts once.

    Raises :class:`TrainingError` when there are fewer than two, or they are of several runs.
    """
    folders = [folder for place in places for folder in _model_folders(place)]
    found_there: list[Stage] = []
    for folder in folders:
        record = read_json(folder / RECORD, remedy="Name folders that `aftermix train` wrote.")
        found_there.append(Stage(folder.absolute(), int(record["tokens"]), record["recipe"]))

    found_there.sort(key=lambda stage: stage.tokens)
    for stage in found_there[1:]:
        different = differences(found_there[0].recipe, stage.recipe)
        if different:
            found = f"is of another run than {found_there[0].folder} ({'; '.join(different[:3])})"
            raise TrainingError(str(stage.folder), found, "Average checkpoints of one run; `merge` takes any models.")

    # Compared before: the same number of tokens of another run is no repetition.
    stages = list({stage.tokens: stage for stage in reversed(found_there)}.values())[::-1]
    if len(stages) < 2:
        found = f"expected at least two checkpoints, found {len(stages)}"
        raise TrainingError(str(places[0]), found, "Train with `checkpoint_tokens`, and name NAME-checkpoints.")
    return stages


def _model_folders(place: Path) -> list[Path]:
    if (place / RECORD).is_file():
        return [place]

    found = sorted(path.parent for path in place.glob(f"*/{RECORD}") if not path.parent.name.startswith("."))
    if not found:
        remedy = "Name NAME-checkpoints of a run with `checkpoint_tokens`, or model folders that `train` wrote."
        raise TrainingError(str(place), f"holds no checkpoint (no {RECORD} in it or one level below)", remedy)
    return found


def _counted(option: str, count: int, stages: Sequence[Stage]) -> int:
    if not 2 <= count <= len(stages):
        found = f"expected 2 to {len(stages)}, as many as there are checkpoints, found {count}"
        raise TrainingError(option, found, "Correct the number.")
    return count


def _weighted(stages: list[Stage], decay: DecayShape | None, min_rate: float) -> list[Stage]:
    if decay is None:
        return [replace(stage, weight=1 / len(stages)) for stage in stages]

    weights = decay_weights([stage.tokens for stage in stages], decay, min_rate=min_rate)
    return [replace(stage, weight=weight) for stage, weight in zip(stages, weights, strict=True)]


def _recipe(stages: Sequence[Stage]) -> Config:
    vectors = {stage.name: VectorConfig(model=str(stage.folder), weight=stage.weight) for stage in stages}
    return Config(vectors=vectors, merge=MergeConfig(method="linear"))


def _best(stages: list[Stage], count: int, by: Config, say: Callable[[str], object]) -> list[Stage]:
    """The `count` checkpoints with the highest objective on the select items, by tokens; ties go to the later one."""
    from aftermix.evaluation.harness import TaskSuite
    from aftermix.jobs.evaluator import LiveScorer
    from aftermix.merging.merge import Merger, Recipe, merged_tensors
    from aftermix.runs.trials import mean_scores
    from aftermix.search.objective import Objectives

    require(by, "evaluate")
    assert by.evaluate is not None  # noqa: S101 - required above; for the type checker
    suite = TaskSuite.build(by.evaluate)
    objectives = Objectives.build(by.search.objective, tasks=list(suite.tasks))

    config = _recipe(stages)
    pool = open_pool(config)
    merger = Merger.of(pool, Recipe.of(config.merge, vectors=config.vectors))
    scorer = LiveScorer.open(pool, by.evaluate, suite)

    # Each checkpoint by itself is the merge that has all weight on it.
    scored = []
    for stage in stages:
        alone = {other.name: float(other is stage) for other in stages}
        scores = mean_scores(scorer.measure(merged_tensors(merger, alone), "select").items)
        scored.append(replace(stage, score=fmean(objectives.values(scores))))
        say(f"{stage.name}: {scored[-1].score:.4f} on the select items")

    ranked = sorted(scored, key=lambda stage: (stage.score or 0.0, stage.tokens), reverse=True)
    return sorted(ranked[:count], key=lambda stage: stage.tokens)
