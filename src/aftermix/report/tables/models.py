"""Rows of winner, baselines and candidates, of ready text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aftermix.report.number_format import DASH, ScoreScale, format_weight
from aftermix.report.tables.points import format_point, format_weights
from aftermix.runs.reader import RunResult
from aftermix.runs.records import BaselineRecord, ScoresRecord


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


@dataclass(frozen=True)
class CandidateRow:
    """One of the best distinct trials, before and after the select items."""

    trial: str
    winner: bool
    weights: str
    search: ScoreCell
    select: ScoreCell


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
