"""Run folders with a fitted response, made without a model."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.unit.response.response_world import ParabolaWorld

from aftermix.report.desk.axes import Position, build_desk_space
from aftermix.response.measurements import TaskMeasurements
from aftermix.response.predictions import PredictedScores, predict_scores
from aftermix.response.response_model import ResponseModel
from aftermix.response.stored import pack_response, unpack_response
from aftermix.response.surface.coordinates import Floats, MergeCoordinates
from aftermix.runs.answers.response_files import ResponseRecord, read_response_files, write_response_files
from aftermix.runs.reader import read_run
from aftermix.runs.trials import Trial

HARNESS = Path(__file__).with_name("run_desk.mjs")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the script is not run")


def search_settings(run: Path, settings: Mapping[str, object]) -> None:
    """Have `run` search `settings` too, as `search.over` names them, and give its trials values by turns."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["search"]["over"] = dict(settings)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    lines = []
    for place, line in enumerate((run / "trials.jsonl").read_text(encoding="utf-8").splitlines()):
        trial = json.loads(line)
        for name, given in settings.items():
            trial["settings"][name] = (
                given[place % len(given)]
                if isinstance(given, list)
                else given["low"] + (given["high"] - given["low"]) * (0.37 * place % 1)  # type: ignore[index]
            )
        lines.append(json.dumps(trial) + "\n")
        if (best := json.loads((run / "best.json").read_text()))["winner"]["trial"] == trial["number"]:
            best["settings"] = trial["settings"]
            (run / "best.json").write_text(json.dumps(best), encoding="utf-8")
    (run / "trials.jsonl").write_text("".join(lines), encoding="utf-8")


def add_response(
    run: Path,
    world: ParabolaWorld,
    *,
    normalised: bool = False,
    change: Callable[[TaskMeasurements], TaskMeasurements] | None = None,
) -> ResponseModel:
    """Give the trials of `run` the scores of `world` at their weights, fit a response to them and store it.

    `change` is made to the measurements of the last task.
    """
    config, trials = read_run(run).config, [trial for trial in read_run(run).trials if trial.is_complete]
    names = [task.task for task in config.evaluate.tasks] if config.evaluate else []
    measured = dict(zip(names, world.measure(_list_weights(trials)).values(), strict=True))
    if change is not None:
        measured[names[-1]] = change(measured[names[-1]])
    rewrite_scores(run, {task: known.means.tolist() for task, known in measured.items()})
    rewrite_result(run, world, names)

    over = config.search.over.settings
    choices = {name: given.choices for name, given in over.items() if given.choices is not None}
    numbers = tuple(name for name in over if name not in choices)
    coordinates = MergeCoordinates(tuple(config.vectors), normalised, numbers, choices)
    points = coordinates.locate([trial.weights for trial in trials], [trial.settings for trial in trials])
    model = ResponseModel.fit(points, measured, seed=0)
    description, arrays = pack_response(model, coordinates, tuple(trial.number for trial in trials))
    write_response_files(run, ResponseRecord.model_validate(description), arrays)
    return model


def predict_with_model(run: Path, positions: Sequence[Position]) -> dict[str, PredictedScores]:
    """The scores of the desk of `run` as `aftermix predict` computes them, from the files of the response."""
    record, arrays = read_response_files(run)
    model, coordinates = unpack_response(record.model_dump(), arrays)
    contents = read_run(run)
    space = build_desk_space(contents, coordinates)
    tasks: dict[str, dict[str, float]] = {task: {task: 1.0} for task in model.tasks}
    first = {objective.name or "mean": dict(objective.tasks) for objective in contents.config.search.objective}
    goals = {name: {task: weight / sum(goal.values()) for task, weight in goal.items()} for name, goal in first.items()}
    return predict_scores(model, space.locate(positions), goals | tasks)


def scatter_positions(run: Path, count: int, *, seed: int = 5) -> list[Position]:
    """Random positions of the desk of `run`."""
    record, arrays = read_response_files(run)
    space = build_desk_space(read_run(run), unpack_response(record.model_dump(), arrays)[1])
    return [space.place(unit) for unit in np.random.default_rng(seed).random((count, len(space.axes)))]


def run_script(page: Path, positions: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What the script of `page` predicts and writes at `positions`; see `run_desk.mjs`."""
    done = subprocess.run(
        ["node", str(HARNESS), str(page)], input=json.dumps(positions), capture_output=True, text=True, check=True
    )
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def _list_weights(trials: Sequence[Trial]) -> Floats:
    return np.array([list(trial.weights.values()) for trial in trials])


def rewrite_scores(run: Path, scores: Mapping[str, Sequence[float]]) -> None:
    """Replace the scores of the complete trials of `run`, in their order, and their objectives."""
    path, place = run / "trials.jsonl", 0
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        trial = json.loads(line)
        if trial["state"] == "complete":
            trial["scores"] = {task: values[place] for task, values in scores.items()}
            trial["objective"] = score_objective(trial["objective"], [*trial["scores"].values()])
            place += 1
        lines.append(json.dumps(trial, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def score_objective(before: object, scores: Sequence[float]) -> float | list[float]:
    """The objective in the form that it had `before`: the mean of all tasks, or of several each a task of its own."""
    several = isinstance(before, list) and len(before) > 1
    return list(scores[: len(before)]) if several else float(np.mean(scores))  # type: ignore[arg-type]


def rewrite_result(run: Path, world: ParabolaWorld, tasks: Sequence[str]) -> None:
    """Replace the test scores of winner and baselines by those of `world`, a little lower than on its own items."""
    path = run / "best.json"
    best = json.loads(path.read_text(encoding="utf-8"))
    for merge, weights in [(best, best["weights"]), *((each, each["weights"]) for each in best["baselines"])]:
        weights_1V = np.array([[weights.get(name, 0.0) for name in best["vectors"]]])
        scores = [float(known.means[0]) * 0.97 for known in world.measure(weights_1V).values()]
        for task, score in zip(tasks, scores, strict=True):
            merge["test"]["tasks"][task].update(score=score, interval=[score - 0.03, score + 0.03])
        values = score_objective(merge["test"]["objective"], scores)
        values = values if isinstance(values, list) else [values]
        merge["test"].update(objective=values, interval=[[value - 0.02, value + 0.02] for value in values])
    path.write_text(json.dumps(best, ensure_ascii=False), encoding="utf-8")
