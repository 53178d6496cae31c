"""The winner: the best search trials, measured again on items the search never saw (OptiMer, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aftermix import progress
from aftermix.config import SearchConfig
from aftermix.errors import RunFailedError
from aftermix.files import write_json
from aftermix.runs.journal import items_path, read_items
from aftermix.runs.trials import ItemScores, Measure, Setting, Trial, checked_items, mean_scores
from aftermix.search.objective import Objectives
from aftermix.search.pareto import distances_to_ideal, front, spans


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the best trials, with its item scores on both splits."""

    trial: Trial
    search: ItemScores
    select: ItemScores
    objective: tuple[float, ...]
    """Objective values on the select items."""
    violation: float
    """By how much the select scores break floors; 0 when all are met."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds of the select measurement by phase; empty if it was there already."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The winner, and what it was chosen among."""

    winner: Candidate
    candidates: tuple[Candidate, ...]
    """The best first by their search scores."""
    floors_met: bool
    """True if the winner meets every floor on the select items."""
    front: tuple[int, ...] | None
    """Trial numbers of the Pareto front over the search items; None for one objective."""


def choose_winner(
    folder: Path, *, trials: Sequence[Trial], config: SearchConfig, tasks: Sequence[str], measure: Measure
) -> Selection:
    """Measure the `config.top` best distinct trials on the select items and take the best of them.

    Candidates meet the floors on the search items; if no trial does, they are the ones that break them least. Of
    several objectives, candidates are members of the Pareto front, nearest to the ideal point first (distance over
    the front's own ranges). The winner breaks floors least on the select items (not at all, if any candidate manages)
    and then has the best objective there, or the least distance to the candidates' ideal point in the same units.
    Ties go to the better search trial. Select scores are kept in `RUN/items/select` and used again.

    Raises :class:`RunFailedError` if no trial is complete.
    """
    objectives = Objectives.build(config.objective, tasks=tasks)
    complete = _distinct([trial for trial in trials if trial.is_complete])
    if not complete:
        raise _none_complete(folder, trials)

    ranked, members = _ranked(complete, objectives)
    chosen = ranked[: config.top]
    with progress.counter(label="select", total=len(chosen), unit="candidate") as advance:
        candidates = []
        for trial in chosen:
            candidates.append(_candidate(folder, trial, objectives=objectives, tasks=tasks, measure=measure))
            advance(f"trial {trial.number}")

    winner = _best(candidates, scale=spans([trial.values for trial in ranked]))
    numbers = None if objectives.is_single else tuple(trial.number for trial in members)
    return Selection(winner=winner, candidates=tuple(candidates), floors_met=winner.violation == 0, front=numbers)


def _distinct(trials: Sequence[Trial]) -> list[Trial]:
    return list({_key(trial): trial for trial in reversed(trials)}.values())[::-1]


def _key(trial: Trial) -> tuple[tuple[tuple[str, Setting], ...], ...]:
    return tuple(sorted(trial.weights.items())), tuple(sorted(trial.settings.items()))


def _ranked(complete: Sequence[Trial], objectives: Objectives) -> tuple[list[Trial], list[Trial]]:
    """The trials that may become candidates, the best first; and the front among those that meet the floors."""
    feasible = [trial for trial in complete if trial.feasible]
    if not feasible:
        return sorted(complete, key=lambda trial: (objectives.violation(trial.scores), *_descending(trial))), []
    members = [feasible[index] for index in front([trial.values for trial in feasible])]
    if objectives.is_single:
        return sorted(feasible, key=_descending), members
    points = [trial.values for trial in members]
    near = dict(zip((trial.number for trial in members), distances_to_ideal(points, scale=spans(points)), strict=True))
    return sorted(members, key=lambda trial: (near[trial.number], trial.number)), members


def _descending(trial: Trial) -> tuple[float, int]:
    return -sum(trial.values), trial.number


def _candidate(
    folder: Path, trial: Trial, *, objectives: Objectives, tasks: Sequence[str], measure: Measure
) -> Candidate:
    search = read_items(folder, "search", trial.number)
    path = items_path(folder, "select", trial.number)
    seconds: dict[str, float] = {}

    # Measured once: an earlier session's scores of this trial are as good.
    if path.exists():
        select = checked_items(read_items(folder, "select", trial.number), tasks=tasks, where=str(path))
    else:
        measurement = measure(trial.point, "select")
        select = checked_items(measurement.items, tasks=tasks, where=f"trial {trial.number} on select items")
        seconds = dict(measurement.seconds)
        write_json(path, select)

    scores = mean_scores(select)
    return Candidate(
        trial=trial,
        search=search,
        select=select,
        objective=objectives.values(scores),
        violation=objectives.violation(scores),
        seconds=seconds,
    )


def _best(candidates: Sequence[Candidate], *, scale: Sequence[float]) -> Candidate:
    points = [candidate.objective for candidate in candidates]
    # With one objective the order is the score's own, and no scale comes into it.
    losses = distances_to_ideal(points, scale=scale) if len(scale) > 1 else [-point[0] for point in points]
    return min(zip(candidates, losses, strict=True), key=lambda pair: (pair[0].violation, pair[1]))[0]


def _none_complete(folder: Path, trials: Sequence[Trial]) -> RunFailedError:
    reasons = [trial.error for trial in trials if trial.error]
    last = f", the last with: {reasons[-1]}" if reasons else ""
    found = f"expected a complete trial to choose from, found none; {len(reasons)} of {len(trials)} failed{last}"
    return RunFailedError(str(folder), found, f"Mend the cause and raise `search.trials`, then --resume {folder}.")
