"""Tables of a finished or unfinished run as rows of ready text: pure functions from the run's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from aftermix.report import number_format as figures
from aftermix.report.number_format import Scale
from aftermix.report.trials import KINDS, kind_of
from aftermix.runs.reader import Run
from aftermix.runs.records import Baseline, Best, Scores, Trial

PHASES = ("combine", "evaluate", "overhead")


@dataclass(frozen=True)
class Cell:
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
    objectives: tuple[Cell, ...]
    leads: tuple[Cell, ...]
    """Winner minus this model, an objective each; empty for the winner."""
    tasks: tuple[Cell, ...]


def task_names(best: Best) -> tuple[str, ...]:
    """Tasks of the test scores, in the run's order."""
    return tuple(best.test.tasks)


def model_rows(best: Best, *, scale: Scale, task_scale: Scale) -> tuple[ModelRow, ...]:
    """The winner and all baselines, best first by the first objective; the winner first among equals."""
    models: list[tuple[Scores, Baseline | None]] = [(best.test, None)]
    models += [(baseline.test, baseline) for baseline in best.baselines]
    models.sort(key=lambda model: -model[0].objective[0])
    highest = _highest([scores for scores, _ in models], task_names(best))
    return tuple(_model_row(best, baseline, scores, highest, scale, task_scale) for scores, baseline in models)


def _highest(all_scores: Sequence[Scores], tasks: Sequence[str]) -> dict[str | int, float]:
    top: dict[str | int, float] = {
        place: max(scores.objective[place] for scores in all_scores) for place in range(len(all_scores[0].objective))
    }
    for task in tasks:
        top[task] = max(scores.tasks[task].score for scores in all_scores if task in scores.tasks)
    return top


def _model_row(
    best: Best,
    baseline: Baseline | None,
    scores: Scores,
    highest: Mapping[str | int, float],
    scale: Scale,
    task_scale: Scale,
) -> ModelRow:
    def objective_cell(place: int, score: float) -> Cell:
        return Cell(scale.text(score), scale.between(scores.interval_of(place)), score == highest[place])

    def task_cell(task: str) -> Cell:
        measured = scores.tasks.get(task)
        if measured is None:
            return Cell(figures.DASH)

        between = task_scale.between(measured.interval)
        return Cell(task_scale.text(measured.score), between, measured.score == highest[task])

    method, won = best.winner.method, point_text(best.weights, best.settings)
    return ModelRow(
        name=baseline.name if baseline else "winner",
        recipe=_recipe(baseline) if baseline else ": ".join(filter(None, [method, won])),
        winner=baseline is None,
        objectives=tuple(objective_cell(place, score) for place, score in enumerate(scores.objective)),
        leads=_leads(baseline.difference, scale) if baseline and baseline.difference else (),
        tasks=tuple(task_cell(task) for task in task_names(best)),
    )


def _leads(difference: Scores, scale: Scale) -> tuple[Cell, ...]:
    return tuple(
        Cell(scale.signed(score), scale.signed_between(difference.interval_of(place)))
        for place, score in enumerate(difference.objective)
    )


_ALONE = {"base": "no vector added", "expert": "this expert alone", "instruction": "this instruction model alone"}


def _recipe(baseline: Baseline) -> str:
    """`ties: it 0.20, ja 0.20`, or shorter where the weights say nothing more than the kind or are all alike."""
    if baseline.kind in _ALONE:
        return _ALONE[baseline.kind]

    weights = baseline.weights or {}
    alike = len(weights) > 2 and len(set(weights.values())) == 1
    text = f"each vector {figures.weight(next(iter(weights.values())))}" if alike else weights_text(weights)
    density = f" at density {baseline.density:g}" if baseline.density is not None else ""
    return ": ".join(filter(None, [f"{baseline.method or ''}{density}", text]))


def weights_text(weights: Mapping[str, float]) -> str:
    """`it 0.62, ja 0.20`, without the vectors at 0.

    >>> weights_text({"it": 0.62, "ja": 0.0})
    'it 0.62'
    """
    return ", ".join(f"{name} {figures.weight(value)}" for name, value in weights.items() if value)


def point_text(weights: Mapping[str, float], settings: Mapping[str, object]) -> str:
    """`it 0.62, ja 0.20; density 0.3`

    >>> point_text({"it": 0.62}, {"density": 0.3, "order": ("ja", "it")})
    'it 0.62; density 0.3; order (ja, it)'
    """
    parts = [weights_text(weights), *(f"{name} {figures.setting(value)}" for name, value in settings.items())]
    return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class Bar:
    """A bar on a track, all in percent of the track's width: where it starts, its length, and where zero is."""

    left: float
    width: float
    zero: float


def weight_bar(value: float, low: float, high: float) -> Bar:
    """The bar from 0 to `value` on a track that holds both and [`low`, `high`].

    >>> weight_bar(0.5, -1.0, 1.0)
    Bar(left=50.0, width=25.0, zero=50.0)
    """
    start, stop = min(0.0, low, value), max(0.0, high, value)
    place = 100 / ((stop - start) or 1.0)
    return Bar(
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
    bar: Bar | None = None
    ratio: str = ""
    ratio_percent: float | None = None


def vector_rows(run: Run) -> tuple[VectorRow, ...]:
    """Every vector in the file's order; all bars share one track, so that lengths compare."""
    weights = run.best.weights if run.best else {}
    ratios = (run.best.ratios if run.best else None) or {}

    # The track of the bars: it holds every bound and every weight.
    bounds = [vector.bounds for vector in run.config.vectors.values()]
    searched = run.config.search.over.weights
    low = min([low for low, _ in bounds] + list(weights.values()), default=0.0)
    high = max([high for _, high in bounds] + list(weights.values()), default=1.0)

    rows = []
    for name, vector in run.config.vectors.items():
        rows.append(
            VectorRow(
                name=name,
                model=vector.model,
                role=vector.role,
                tokens=figures.tokens(vector.tokens),
                range=" to ".join(figures.weight(bound) for bound in vector.bounds) if searched else "not searched",
                weight=figures.weight(weights[name]) if name in weights else "",
                bar=weight_bar(weights[name], low, high) if name in weights else None,
                ratio=figures.percent(ratios[name]) if name in ratios else "",
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
    search: Cell
    select: Cell


def candidate_rows(best: Best, *, scale: Scale) -> tuple[CandidateRow, ...]:
    """Candidates in the order of their search score; first objective."""

    def cell(scores: Scores | None) -> Cell:
        return Cell(scale.text(scores.objective[0]), scale.between(scores.interval_of(0))) if scores else Cell("")

    return tuple(
        CandidateRow(
            trial="" if candidate.trial is None else str(candidate.trial),
            # A winner of a mixture run need not be a trial.
            winner=candidate.trial == best.winner.trial
            and (candidate.trial is not None or candidate.weights == best.weights),
            weights=point_text(candidate.weights, candidate.settings),
            search=cell(candidate.search),
            select=cell(candidate.select),
        )
        for candidate in best.candidates
    )


@dataclass(frozen=True)
class Segment:
    """One part of a stacked bar."""

    name: str
    total: str
    percent: float
    median: str = ""


@dataclass(frozen=True)
class Cost:
    """Time spent: on phases of the trials of this run, and on stages of the whole job."""

    trials: int
    phases: tuple[Segment, ...]
    phases_total: str
    median_total: str
    stages: tuple[Segment, ...] = field(default=())
    stages_total: str = ""


def cost(run: Run) -> Cost | None:
    """Seconds by phase over all trials measured here (imported ones cost nothing); None when none were recorded."""
    spent = [trial.seconds for trial in run.trials if trial.seconds and not trial.imported]
    phases = [*PHASES, *sorted({phase for seconds in spent for phase in seconds} - set(PHASES))]
    totals = {phase: sum(seconds.get(phase, 0.0) for seconds in spent) for phase in phases}
    medians = {phase: median(seconds.get(phase, 0.0) for seconds in spent) for phase in phases} if spent else {}

    stages = _stages(run, sum(totals.values()))
    if not spent and not stages:
        return None

    return Cost(
        trials=len(spent),
        phases=_segments(totals, medians) if spent else (),
        phases_total=figures.duration(sum(totals.values())),
        median_total=figures.duration(median(sum(seconds.values()) for seconds in spent)) if spent else "",
        stages=_segments(stages, {}) if stages else (),
        stages_total=figures.duration(sum(stages.values())) if stages else "",
    )


def _stages(run: Run, search_s: float) -> dict[str, float]:
    seconds = run.best.seconds if run.best else None
    if seconds is None:
        return {}

    searching_s = sum(seconds.search.values()) or search_s
    stages = {"prepare": seconds.prepare, "search": searching_s, "select": seconds.select, "test": seconds.test}
    return {stage: value for stage, value in stages.items() if value is not None}


def _segments(totals: Mapping[str, float], medians: Mapping[str, float]) -> tuple[Segment, ...]:
    whole = sum(totals.values()) or 1.0
    return tuple(
        Segment(
            name=name,
            total=figures.duration(seconds),
            percent=round(100 * seconds / whole, 2),
            median=figures.duration(medians[name]) if name in medians else "",
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


def failure_rows(trials: Sequence[Trial]) -> tuple[FailureRow, ...]:
    """Every failed or pruned trial."""
    return tuple(
        FailureRow(
            trial.number,
            trial.state,
            point_text(trial.weights, trial.settings),
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


def origin_rows(trials: Sequence[Trial]) -> tuple[OriginRow, ...]:
    """Counts by origin; origins without a trial are left out."""
    rows = []
    for kind in KINDS:
        states = [trial.state for trial in trials if kind_of(trial) == kind.key]
        if states:
            rows.append(OriginRow(kind.label, states.count("complete"), states.count("failed"), states.count("pruned")))
    return tuple(rows)


def flattened(values: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested values as (dotted key, text) pairs, for a lock file of any shape.

    >>> flattened({"seeds": {"search": 0}, "created": "2026-01-01"})
    (('seeds.search', '0'), ('created', '2026-01-01'))
    """
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            pairs += flattened(value, name)
        elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
            pairs += flattened({str(place): part for place, part in enumerate(value)}, name)
        else:
            pairs.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return tuple(pairs)
