"""The mixing desk of a run whose search fitted a response: sliders that predict any merge, and a table without them."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from aftermix.report.context import choose_run_scale, list_objectives, name_run_objectives
from aftermix.report.desk.axes import NEAR, DeskAxis, DeskPreset, DeskSpace, build_desk_space
from aftermix.report.desk.marks import DeskMerge, list_merges, read_scores
from aftermix.report.desk.payload import DeskScore, build_payload, build_score
from aftermix.report.desk.position_text import format_choices, write_command, write_recipe
from aftermix.report.number_format import DASH, POINTS, ScoreScale, format_weight
from aftermix.report.tables.models import ScoreCell
from aftermix.report.trials import select_measured
from aftermix.response.predictions import PredictedScores, predict_scores
from aftermix.response.response_model import ResponseModel
from aftermix.response.stored import unpack_response
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.answers.response_files import RESPONSE_FILE, read_response_files
from aftermix.runs.mixture_records import MixtureRecord, TreeRecord
from aftermix.runs.reader import RunContents
from aftermix.runs.records import BaselineRecord, BestRecord

SHOWN = ("winner", "uniform", "base")
"""Positions of the table that needs no script."""
REACH = 6
"""Base 2 logarithm of the number of positions whose scores are on the axes."""
Goals = dict[str, dict[str, float]]
"""Score -> weights of its tasks."""


@dataclass(frozen=True)
class DeskRow:
    """A merge of the table as it was predicted or measured."""

    name: str
    source: str
    cells: tuple[ScoreCell, ...]
    is_first: bool
    """True for the first row of its merge."""


@dataclass(frozen=True)
class DeskSection:
    """The section: controls, the table that needs no script, and the script with its data."""

    measured: int
    """Merges that the response was fitted to."""
    axes: tuple[DeskAxis, ...]
    presets: tuple[DeskPreset, ...]
    marks: tuple[float | None, ...]
    """Place of the winner on each slider in percent."""
    fixed: tuple[tuple[str, str], ...]
    scores: tuple[str, ...]
    objectives: int
    used: tuple[str, ...]
    """Words on what each score is predicted from."""
    rows: tuple[DeskRow, ...]
    unit: str
    has_recipe: bool
    has_command: bool
    style: Markup
    script: Markup
    payload: Markup
    policy: str
    """Content security policy of the page: this script alone, and nothing from anywhere."""


def build_desk_section(run: RunContents) -> DeskSection | None:
    """The desk of `run`; None for a run without a stored response, and for mixtures.

    Raises :class:`AftermixError` for files of the response that are missing or damaged.
    """
    if isinstance(run.best, MixtureRecord | TreeRecord) or not (run.folder / RESPONSE_FILE).is_file():
        return None
    model, coordinates = _read_model(run.folder)
    space, goals = build_desk_space(run, coordinates), _list_goals(run, model)
    if not space.axes:
        return None

    objectives, tasks = len(goals) - len(model.tasks), list(model.tasks)
    scale, merges = choose_run_scale(run), list_merges(run, objectives, tasks)
    recipe, command = write_recipe(run, space), write_command(run, space)
    payload = build_payload(
        model, space, _build_scores(model, space, goals, merges, scale), scale=scale, merges=merges,
        texts=format_choices(space), recipe=recipe, command=command,
    )  # fmt: skip

    script = _read_file("desk.js")
    return DeskSection(
        measured=len(model.points),
        axes=space.axes,
        presets=space.presets,
        marks=_locate_winner(space),
        fixed=tuple((name, format_weight(weight)) for name, weight in space.fixed.items()),
        scores=tuple(goals),
        objectives=objectives,
        used=tuple(_describe_used(model, weights) for weights in goals.values()),
        rows=tuple(_list_rows(run, model, space, goals, objectives, scale)),
        unit=scale.unit,
        has_recipe=bool(recipe),
        has_command=bool(command),
        style=Markup(_read_file("desk.css")),  # noqa: S704 - ours
        script=Markup(script),  # noqa: S704 - ours; no name of the user's is put into it
        payload=payload.to_script(),
        policy=_write_policy(script),
    )


def _read_model(run: Path) -> tuple[ResponseModel, MergeCoordinates]:
    record, arrays = read_response_files(run)
    return unpack_response(record.model_dump(), arrays, where=str(run / RESPONSE_FILE))


def _list_goals(run: RunContents, model: ResponseModel) -> Goals:
    """Weights of the tasks of each objective, then of each task alone; a lone task is its own objective."""
    goals: Goals = {}
    for name, record in zip(name_run_objectives(run), list_objectives(run), strict=False):
        weights = record.tasks or dict.fromkeys(model.tasks, 1.0)
        if weights.keys() <= model.tasks.keys():
            total = math.fsum(weights.values())
            goals[f"{name} (objective)" if name in model.tasks else name] = {
                task: weight / total for task, weight in weights.items()
            }
    return goals | {task: {task: 1.0} for task in model.tasks}


def _build_scores(
    model: ResponseModel, space: DeskSpace, goals: Goals, merges: Sequence[DeskMerge], scale: ScoreScale
) -> list[DeskScore]:
    """The scores, on axes that hold what was measured, and what is predicted over the sliders."""
    limits = (0.0, 1.0) if scale is POINTS else (-math.inf, math.inf)
    positions = [*space.scatter(REACH), *(preset.position for preset in space.presets)]
    predicted = predict_scores(model, space.locate(positions), goals)
    scores = []
    for place, (name, weights) in enumerate(goals.items()):
        values = [merge.values[place] for merge in merges]
        reach = [*predicted[name].mean_C.tolist(), *(value for value in values if value is not None)]
        scores.append(build_score(model, name, weights, reach, limits=limits))
    return scores


def _locate_winner(space: DeskSpace) -> tuple[float | None, ...]:
    winner = next((preset for preset in space.presets if preset.name == "winner"), None)
    if winner is None:
        return (None,) * len(space.axes)
    pairs = zip(space.axes, winner.position, strict=True)
    return tuple(None if axis.values else round(axis.locate_percent(value), 2) for axis, value in pairs)


def _describe_used(model: ResponseModel, weights: Mapping[str, float]) -> str:
    kinds = {model.tasks[task].used for task in weights}
    if kinds == {"score"}:
        return "from its scores alone"
    return "" if kinds == {"loglikelihood"} else "from log-likelihoods, and of some tasks from scores alone"


def _list_rows(
    run: RunContents, model: ResponseModel, space: DeskSpace, goals: Goals, objectives: int, scale: ScoreScale
) -> list[DeskRow]:
    """Winner, uniform merge and base: predicted, and measured where they were."""
    shown = [preset for preset in space.presets if preset.name in SHOWN]
    if not shown:
        return []
    predicted = predict_scores(model, space.locate([preset.position for preset in shown]), goals)
    rows = []
    for place, preset in enumerate(shown):
        cells = tuple(_format_predicted(predicted[name], place, scale) for name in goals)
        rows.append(DeskRow(preset.name, "predicted", cells, is_first=True))
        for source, values in _list_measured(run, space, preset, objectives, list(model.tasks)):
            cells = tuple(ScoreCell(DASH if value is None else scale.format(value)) for value in values)
            rows.append(DeskRow(preset.name, source, cells, is_first=False))
    return rows


def _format_predicted(scores: PredictedScores, place: int, scale: ScoreScale) -> ScoreCell:
    interval = (float(scores.low_C[place]), float(scores.high_C[place]))
    return ScoreCell(scale.format(float(scores.mean_C[place])), scale.format_interval(interval))


def _list_measured(
    run: RunContents, space: DeskSpace, preset: DeskPreset, objectives: int, tasks: Sequence[str]
) -> list[tuple[str, tuple[float | None, ...]]]:
    """Measurements of a preset: their source in words, and the scores."""
    found = []
    trials = {f"trial {trial.number}": trial for trial in select_measured(run.trials)}
    for merge in list_merges(run, objectives, tasks):
        trial = trials.get(merge.name)
        if trial is not None and _is_at(space, preset, trial.weights, trial.settings):
            found.append((f"measured, search items ({merge.name})", merge.values))
            break

    if isinstance(run.best, BestRecord):
        if preset.name == "winner":
            found.append(("measured, test items", read_scores(run.best.test, objectives, tasks)))
        baseline = _find_baseline(run.best, preset.name)
        if baseline is not None:
            source = f"measured, test items ({baseline.name})"
            found.append((source, read_scores(baseline.test, objectives, tasks)))
    return found


def _is_at(space: DeskSpace, preset: DeskPreset, weights: Mapping[str, float], settings: Mapping[str, object]) -> bool:
    ours, values = space.split_position(preset.position)
    near = all(abs(weights.get(name, 0.0) - weight) < NEAR for name, weight in ours.items())
    return near and dict(settings) == values


def _find_baseline(best: BestRecord, preset: str) -> BaselineRecord | None:
    """The baseline that is the merge of a preset: of the uniform one that under the winner's own method."""
    for baseline in best.baselines:
        same = preset == "base" or baseline.method == best.winner.method
        if baseline.kind == preset and preset in ("base", "uniform") and same:
            return baseline
    return None


def _write_policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"


def _read_file(name: str) -> str:
    return files("aftermix.report.desk").joinpath(name).read_text(encoding="utf-8")
