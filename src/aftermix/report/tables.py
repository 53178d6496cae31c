"""Tables of a finished or unfinished run as rows of ready text: pure functions from the run's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from aftermix.config import Config
from aftermix.config.places import WeightDimension, list_dimensions
from aftermix.files import shorten_path
from aftermix.report.number_format import (
    DASH,
    ScoreScale,
    format_duration,
    format_percent,
    format_setting,
    format_tokens,
    format_weight,
)
from aftermix.report.trials import KINDS, classify_trial
from aftermix.runs.reader import RunContents, RunResult
from aftermix.runs.records import BaselineRecord, ScoresRecord
from aftermix.runs.trials import Setting, Trial, quote_setting

PHASES = ("combine", "evaluate", "overhead")


@dataclass(frozen=True)
class ScoreCell:
    """A number with its interval; `top` marks the highest of its column."""

    text: str
    interval: str = ""
    top: bool = False


@dataclass(frozen=True)
class ModelRow:
    """One model of the table of winner and baselines."""

    name: str
    recipe: str
    """The way it was made, in a few words."""
    winner: bool
    objectives: tuple[ScoreCell, ...]
    leads: tuple[ScoreCell, ...]
    """Winner minus this model, an objective each; empty for the winner."""
    tasks: tuple[ScoreCell, ...]


def list_tasks(best: RunResult) -> tuple[str, ...]:
    """Tasks of the test scores, in the run's order."""
    return tuple(best.test.tasks)


def list_whole_tasks(best: RunResult) -> tuple[str, ...]:
    """Tasks that were scored whole, without items."""
    return tuple(task for task, scores in best.test.tasks.items() if scores.interval is None)


def build_model_rows(best: RunResult, *, scale: ScoreScale, task_scale: ScoreScale) -> tuple[ModelRow, ...]:
    """The winner and all baselines, best first by the first objective; the winner first among equals."""
    models: list[tuple[ScoresRecord, BaselineRecord | None]] = [(best.test, None)]
    models += [(baseline.test, baseline) for baseline in best.baselines]
    models.sort(key=lambda model: -model[0].objective[0])
    highest = _find_highest([scores for scores, _ in models], list_tasks(best))
    return tuple(_build_model_row(best, baseline, scores, highest, scale, task_scale) for scores, baseline in models)


def _find_highest(all_scores: Sequence[ScoresRecord], tasks: Sequence[str]) -> dict[str | int, float]:
    top: dict[str | int, float] = {
        place: max(scores.objective[place] for scores in all_scores) for place in range(len(all_scores[0].objective))
    }
    for task in tasks:
        top[task] = max(scores.tasks[task].score for scores in all_scores if task in scores.tasks)
    return top


def _build_model_row(
    best: RunResult,
    baseline: BaselineRecord | None,
    scores: ScoresRecord,
    highest: Mapping[str | int, float],
    scale: ScoreScale,
    task_scale: ScoreScale,
) -> ModelRow:
    def format_objective(place: int, score: float) -> ScoreCell:
        return ScoreCell(scale.format(score), scale.format_interval(scores.interval_of(place)), score == highest[place])

    def format_task(task: str) -> ScoreCell:
        measured = scores.tasks.get(task)
        if measured is None:
            return ScoreCell(DASH)

        between = task_scale.format_interval(measured.interval)
        return ScoreCell(task_scale.format(measured.score), between, measured.score == highest[task])

    method, won = best.winner.method, format_point(best.weights, best.settings)
    return ModelRow(
        name=baseline.name if baseline else "winner",
        recipe=_describe_recipe(baseline) if baseline else ": ".join(filter(None, [method, won])),
        winner=baseline is None,
        objectives=tuple(format_objective(place, score) for place, score in enumerate(scores.objective)),
        leads=_format_leads(baseline.difference, scale) if baseline and baseline.difference else (),
        tasks=tuple(format_task(task) for task in list_tasks(best)),
    )


def _format_leads(difference: ScoresRecord, scale: ScoreScale) -> tuple[ScoreCell, ...]:
    return tuple(
        ScoreCell(scale.format_signed(score), scale.format_signed_interval(difference.interval_of(place)))
        for place, score in enumerate(difference.objective)
    )


_ALONE = {"base": "no vector added", "expert": "this expert alone", "instruction": "this instruction model alone"}


def _describe_recipe(baseline: BaselineRecord) -> str:
    """`ties: it 0.20, ja 0.20`, or shorter where the weights say nothing more than the kind or are all alike."""
    if baseline.kind in _ALONE:
        return _ALONE[baseline.kind]

    weights = baseline.weights
    alike = len(weights) > 2 and len(set(weights.values())) == 1
    text = f"each vector {format_weight(next(iter(weights.values())))}" if alike else format_weights(weights)
    density = f" at density {baseline.density:g}" if baseline.density is not None else ""
    return ": ".join(filter(None, [f"{baseline.method or ''}{density}", text]))


def format_weights(weights: Mapping[str, float]) -> str:
    """`it 0.62, ja 0.20`, without the vectors at 0.

    >>> format_weights({"it": 0.62, "ja": 0.0})
    'it 0.62'
    """
    return ", ".join(f"{name} {format_weight(value)}" for name, value in weights.items() if value)


def format_point(weights: Mapping[str, float], settings: Mapping[str, Setting]) -> str:
    """`it 0.62, ja 0.20; density 0.3`

    >>> format_point({"it": 0.62}, {"density": 0.3, "order": ("ja", "it")})
    'it 0.62; density 0.3; order (ja, it)'
    """
    parts = [
        format_weights(weights),
        *(f"{quote_setting(name)} {format_setting(value)}" for name, value in settings.items()),
    ]
    return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class WeightBar:
    """A bar on a track, all in percent of the track's width: where it starts, its length, and where zero is."""

    left: float
    width: float
    zero: float


def place_bar(value: float, low: float, high: float) -> WeightBar:
    """The bar from 0 to `value` on a track that holds both and [`low`, `high`].

    >>> place_bar(0.5, -1.0, 1.0)
    WeightBar(left=50.0, width=25.0, zero=50.0)
    """
    start, stop = min(0.0, low, value), max(0.0, high, value)
    place = 100 / ((stop - start) or 1.0)
    return WeightBar(
        left=round((min(0.0, value) - start) * place, 2), width=round(abs(value) * place, 2),
        zero=round(-start * place, 2),
    )  # fmt: skip


@dataclass(frozen=True)
class VectorRow:
    """One vector: what it is, and, in a finished run, its weight and data ratio."""

    name: str
    model: str
    role: str
    tokens: str
    range: str
    weight: str = ""
    bar: WeightBar | None = None
    ratio: str = ""
    ratio_percent: float | None = None


def list_weights(config: Config) -> dict[str, WeightDimension]:
    """The weights of a run by name: a vector's, or where they are searched by rules of its range those of the rules."""
    if config.search.over.weights:
        return list_dimensions(config.vectors)
    return {name: WeightDimension(name, vector.bounds) for name, vector in config.vectors.items()}


def build_vector_rows(run: RunContents) -> tuple[VectorRow, ...]:
    """Every vector in the file's order; all bars share one track, so that lengths compare."""
    weights = run.best.weights if run.best else {}
    ratios = (run.best.ratios if run.best else None) or {}

    # The track of the bars: it holds every bound and every weight.
    searched = run.config.search.over.weights
    dimensions = list_weights(run.config)
    bounds = [dimension.bounds for dimension in dimensions.values()]
    low = min([low for low, _ in bounds] + list(weights.values()), default=0.0)
    high = max([high for _, high in bounds] + list(weights.values()), default=1.0)

    rows = []
    for name, dimension in dimensions.items():
        vector = run.config.vectors[dimension.vector]
        rows.append(
            VectorRow(
                name=name,
                model=shorten_path(vector.model, run=run.folder),
                role=vector.role,
                tokens=format_tokens(vector.tokens),
                range=" to ".join(format_weight(bound) for bound in dimension.bounds) if searched else "not searched",
                weight=format_weight(weights[name]) if name in weights else "",
                bar=place_bar(weights[name], low, high) if name in weights else None,
                ratio=format_percent(ratios[name]) if name in ratios else "",
                ratio_percent=round(100 * ratios[name], 2) if name in ratios else None,
            )
        )
    return tuple(rows)


@dataclass(frozen=True)
class CandidateRow:
    """One of the best distinct trials, before and after the select items."""

    trial: str
    winner: bool
    weights: str
    search: ScoreCell
    select: ScoreCell


def build_candidate_rows(best: RunResult, *, scale: ScoreScale) -> tuple[CandidateRow, ...]:
    """Candidates in the order of their search score; first objective."""

    def format_scores(scores: ScoresRecord | None) -> ScoreCell:
        return (
            ScoreCell(scale.format(scores.objective[0]), scale.format_interval(scores.interval_of(0)))
            if scores
            else ScoreCell("")
        )

    return tuple(
        CandidateRow(
            trial="" if candidate.trial is None else str(candidate.trial),
            # A winner of a mixture run need not be a trial.
            winner=candidate.trial == best.winner.trial
            and (candidate.trial is not None or candidate.weights == best.weights),
            weights=format_point(candidate.weights, candidate.settings),
            search=format_scores(candidate.search),
            select=format_scores(candidate.select),
        )
        for candidate in best.candidates
    )


@dataclass(frozen=True)
class BarSegment:
    """One part of a stacked bar."""

    name: str
    total: str
    percent: float
    median: str = ""


@dataclass(frozen=True)
class RunCost:
    """Time spent: on phases of the trials of this run, and on stages of the whole job."""

    trials: int
    phases: tuple[BarSegment, ...]
    phases_total: str
    median_total: str
    stages: tuple[BarSegment, ...] = field(default=())
    stages_total: str = ""


def summarise_cost(run: RunContents) -> RunCost | None:
    """Seconds by phase over all trials measured here (imported ones cost nothing); None when none were recorded."""
    spent = [trial.seconds for trial in run.trials if trial.seconds and not trial.is_imported]
    phases = [*PHASES, *sorted({phase for seconds in spent for phase in seconds} - set(PHASES))]
    totals = {phase: sum(seconds.get(phase, 0.0) for seconds in spent) for phase in phases}
    medians = {phase: median(seconds.get(phase, 0.0) for seconds in spent) for phase in phases} if spent else {}

    stages = _list_stages(run, sum(totals.values()))
    if not spent and not stages:
        return None

    return RunCost(
        trials=len(spent),
        phases=_build_segments(totals, medians) if spent else (),
        phases_total=format_duration(sum(totals.values())),
        median_total=format_duration(median(sum(seconds.values()) for seconds in spent)) if spent else "",
        stages=_build_segments(stages, {}) if stages else (),
        stages_total=format_duration(sum(stages.values())) if stages else "",
    )


def _list_stages(run: RunContents, search_s: float) -> dict[str, float]:
    if run.best is None:
        return {}

    seconds = run.best.seconds
    searching_s = sum(seconds.search.values()) or search_s
    return {"prepare": seconds.prepare, "search": searching_s, "select": seconds.select, "test": seconds.test}


def _build_segments(totals: Mapping[str, float], medians: Mapping[str, float]) -> tuple[BarSegment, ...]:
    whole = sum(totals.values()) or 1.0
    return tuple(
        BarSegment(
            name=name,
            total=format_duration(seconds),
            percent=round(100 * seconds / whole, 2),
            median=format_duration(medians[name]) if name in medians else "",
        )
        for name, seconds in totals.items()
    )


@dataclass(frozen=True)
class FailureRow:
    """One trial without a score, and the reason."""

    number: int
    state: str
    weights: str
    reason: str


def list_failures(trials: Sequence[Trial]) -> tuple[FailureRow, ...]:
    """Every failed or pruned trial."""
    return tuple(
        FailureRow(
            trial.number,
            trial.state,
            format_point(trial.weights, trial.settings),
            trial.error or "no reason was recorded",
        )
        for trial in trials
        if trial.state == "failed" or (trial.state == "pruned" and trial.error)
    )


@dataclass(frozen=True)
class OriginRow:
    """Trials of one origin, counted by how they ended."""

    label: str
    complete: int
    failed: int
    pruned: int


def count_origins(trials: Sequence[Trial]) -> tuple[OriginRow, ...]:
    """Counts by origin; origins without a trial are left out."""
    rows = []
    for kind in KINDS:
        states = [trial.state for trial in trials if classify_trial(trial) == kind.key]
        if states:
            rows.append(OriginRow(kind.label, states.count("complete"), states.count("failed"), states.count("pruned")))
    return tuple(rows)


def flatten(values: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested values as (dotted key, text) pairs, for a lock file of any shape.

    >>> flatten({"seeds": {"search": 0}, "created": "2026-01-01"})
    (('seeds.search', '0'), ('created', '2026-01-01'))
    """
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            pairs += flatten(value, name)
        elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
            pairs += flatten({str(place): part for place, part in enumerate(value)}, name)
        else:
            pairs.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return tuple(pairs)
