"""Short tables of a cell's output: a pool, a merge, scores, a prediction, a study."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from aftermix.config import Config
from aftermix.config.places import Weight, describe_range, describe_weight, list_range_rules
from aftermix.report.notebook.fragments import Cell, build_paragraph, build_table
from aftermix.report.number_format import DASH, choose_scale, format_count, format_tokens, format_weight
from aftermix.report.tables.models import ScoreCell
from aftermix.report.tables.points import format_point
from aftermix.runs.trials import Trial

LISTED = 5
"""Best points of a study that are shown."""


@dataclass(frozen=True)
class ShownScore:
    """A score by its name, with its 95 % interval and what there is to say of it."""

    name: str
    value: float
    interval: tuple[float, float] | None
    note: str = ""


def tabulate_pool(config: Config) -> str:
    """Base and vectors with what a merge or a search does with each."""
    rows: list[list[Cell]] = [["base", _shorten_path(config.base), "", "", ""]] if config.base else []
    for name, vector in config.vectors.items():
        low, high = vector.bounds
        is_placed = bool(list_range_rules(vector.range))
        bounds = (
            describe_range(vector.range or vector.bounds)
            if is_placed
            else f"{format_weight(low)} to {format_weight(high)}"
        )
        rows.append([name, _shorten_path(vector.model), vector.role, bounds, format_tokens(vector.tokens) or DASH])
    return build_table(["vector", "model", "role", "range", "tokens"], rows, texts=3)


def tabulate_merge(method: str, options: Mapping[str, object], weights: Mapping[str, Weight]) -> str:
    """Method with its options, and the weight of each vector."""
    settings = ", ".join(f"{name} {value}" for name, value in options.items())
    rows = [
        [name, describe_weight(weight) if isinstance(weight, tuple) else format_weight(weight)]
        for name, weight in weights.items()
    ]
    table = build_table(["vector", "merge weight"], rows)
    return build_paragraph(f"{method}{': ' if settings else ''}{settings}") + table


def tabulate_scores(scores: Sequence[ShownScore], *, last: str) -> str:
    """A row a score, in points where all are shares; `last` heads the column of the notes."""
    scale = choose_scale(score.value for score in scores)
    rows = [
        [score.name, scale.format(score.value), scale.format_interval(score.interval), score.note] for score in scores
    ]
    unit = f" ({scale.unit})" if scale.unit else ""
    return build_table(["score", f"value{unit}", "95 % interval", last], rows)


def tabulate_study(trials: Sequence[Trial], *, open_points: int) -> str:
    """Numbers of points, and the best that meet the floors, by the first objective."""
    usable = sorted((trial for trial in trials if trial.is_complete and trial.feasible), key=_place)
    told = f"{format_count(len(trials), 'point')} told, {open_points} open"
    if not usable:
        return build_paragraph(told)

    scale = choose_scale(trial.values[0] for trial in usable)
    unit = f" ({scale.unit})" if scale.unit else ""
    rows: list[list[Cell]] = [
        [format_point(trial.weights, trial.settings), str(trial.number), ScoreCell(scale.format(trial.values[0]))]
        for trial in usable[:LISTED]
    ]
    return Markup().join([build_paragraph(told), build_table(["best points", "number", f"score{unit}"], rows, bold=0)])


def _shorten_path(model: str) -> str:
    """A folder as it is called from here where that is shorter; names of the hub as they are."""
    return min(os.path.normpath(model), os.path.relpath(model), key=len) if Path(model).is_absolute() else model


def _place(trial: Trial) -> tuple[float, int]:
    """The best first, and the earlier of equals."""
    return -trial.values[0], trial.number
