"""The winner: the best search trials, measured again on items the search never saw (OptiMer, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aftermix import progress
from aftermix.config import SearchConfig
from aftermix.errors import RunFailedError
from aftermix.runs.answers.blocks import discard_blocks, journal_blocks
from aftermix.runs.journal import locate_items, read_items, write_items
from aftermix.runs.trials import (
    Announce,
    ItemScores,
    Measure,
    Setting,
    Trial,
    average_scores,
    check_items,
    describe_point,
)
from aftermix.search.choosing.finalists import MeasuredFinalist, SelectRounds
from aftermix.search.objective import ObjectiveSet
from aftermix.search.pareto import find_front, measure_distances_to_ideal, measure_spans


@dataclass(frozen=True, kw_only=True)
class SelectedTrial:
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
    dropped_after: int | None = None
    """The round after which it was surely beaten, and measured no further; None for a candidate with all items."""


@dataclass(frozen=True, kw_only=True)
class WinnerSelection:
    """The winner, and what it was chosen among."""

    winner: SelectedTrial
    candidates: tuple[SelectedTrial, ...]
    """The best first by their search scores."""
    floors_met: bool
    """True if the winner meets every floor on the select items."""
    front: tuple[int, ...] | None
    """Trial numbers of the Pareto front over the search items; None for one objective."""


def choose_winner(
    folder: Path,
    *,
    trials: Sequence[Trial],
    config: SearchConfig,
    tasks: Sequence[str],
    measure: Measure,
    announce: Announce | None = None,
    ranking: Sequence[int] | None = None,
    settled: bool = False,
    rounds: SelectRounds | None = None,
) -> WinnerSelection:
    """Measure the `config.top` best distinct trials on the select items and take the best of them.

    Candidates meet the floors on the search items; if no trial does, they are the ones that break them least. Of
    several objectives, candidates are members of the Pareto front, nearest to the ideal point first (distance over
    the front's own ranges). The winner breaks floors least on the select items (not at all, if any candidate manages)
    and then has the best objective there, or the least distance to the candidates' ideal point in the same units.
    Ties go to the better search trial. Select scores are kept in `RUN/items/select` and used again.

    With a `ranking`, numbers of trials from the best down, candidates are its first ones; the last of several is the
    best trial that it does not know, if that scored above its first. Where it is `settled`, its first is the winner and
    the only one. With `rounds` candidates are measured round by round and dropped as :mod:`~.choosing.elimination`
    says; the winner is among those with all items.

    `announce` is told of all candidates before the first of them is measured.

    Raises :class:`RunFailedError` if no trial is complete.
    """
    objectives = ObjectiveSet.build(config.objective, tasks=tasks)
    complete = _drop_repeated_trials([trial for trial in trials if trial.is_complete])
    if not complete:
        raise _explain_none_complete(folder, trials)

    ranked, members = _rank_trials(complete, objectives)
    if ranking is not None:
        ranked = _follow_ranking(ranked, complete, ranking, place=config.top - 1)
    chosen = ranked[: 1 if settled else config.top]
    if rounds is None:
        candidates = _measure_candidates(
            folder, chosen, objectives=objectives, tasks=tasks, measure=measure, announce=announce
        )
    else:
        candidates = [_build_finalist(folder, finalist, objectives) for finalist in rounds.settle(chosen)]

    whole = [candidate for candidate in candidates if candidate.dropped_after is None]
    winner = _choose_best(whole, scale=measure_spans([trial.values for trial in ranked]))
    numbers = None if objectives.is_single else tuple(trial.number for trial in members)
    return WinnerSelection(winner=winner, candidates=tuple(candidates), floors_met=winner.violation == 0, front=numbers)


def _drop_repeated_trials(trials: Sequence[Trial]) -> list[Trial]:
    return list({_identify_point(trial): trial for trial in reversed(trials)}.values())[::-1]


def _identify_point(trial: Trial) -> tuple[tuple[tuple[str, Setting], ...], ...]:
    return tuple(sorted(trial.weights.items())), tuple(sorted(trial.settings.items()))


def _rank_trials(complete: Sequence[Trial], objectives: ObjectiveSet) -> tuple[list[Trial], list[Trial]]:
    """The trials that may become candidates, the best first; and the front among those that meet the floors."""
    feasible = [trial for trial in complete if trial.feasible]
    if not feasible:
        return sorted(complete, key=lambda trial: (objectives.violation(trial.scores), *_sort_descending(trial))), []

    members = [feasible[index] for index in find_front([trial.values for trial in feasible])]
    if objectives.is_single:
        return sorted(feasible, key=_sort_descending), members

    # Of several objectives none is the first: nearest to having it all comes first.
    points = [trial.values for trial in members]
    near = dict(
        zip(
            (trial.number for trial in members),
            measure_distances_to_ideal(points, scale=measure_spans(points)),
            strict=True,
        )
    )
    return sorted(members, key=lambda trial: (near[trial.number], trial.number)), members


def _follow_ranking(
    ranked: Sequence[Trial], complete: Sequence[Trial], ranking: Sequence[int], *, place: int
) -> list[Trial]:
    """The trials of `ranking`; at `place`, unless it is the first, one not in it whose scores are above its first's."""
    by_number = {trial.number: trial for trial in complete}
    known = [by_number[number] for number in ranking if number in by_number]
    if not known or place < 1:
        return known
    better = [trial for trial in ranked if trial.number not in ranking and sum(trial.values) > sum(known[0].values)]
    return [*known[:place], *better[:1], *known[place:]]


def _sort_descending(trial: Trial) -> tuple[float, int]:
    return -sum(trial.values), trial.number


def _measure_candidates(
    folder: Path,
    chosen: Sequence[Trial],
    *,
    objectives: ObjectiveSet,
    tasks: Sequence[str],
    measure: Measure,
    announce: Announce | None,
) -> list[SelectedTrial]:
    paths = {trial.number: locate_items(folder, "select", trial.number) for trial in chosen}
    for trial in chosen:
        if announce is not None and not paths[trial.number].exists():
            with journal_blocks(paths[trial.number], describe_point(trial.point)):
                announce(trial.point, "select")

    with progress.counter(label="select", total=len(chosen), unit="candidate") as advance:
        candidates = []
        for trial in chosen:
            candidates.append(_measure_candidate(folder, trial, objectives=objectives, tasks=tasks, measure=measure))
            advance(f"trial {trial.number}")
    return candidates


def _build_finalist(folder: Path, finalist: MeasuredFinalist, objectives: ObjectiveSet) -> SelectedTrial:
    scores = average_scores(finalist.select)
    return SelectedTrial(
        trial=finalist.trial,
        search=read_items(folder, "search", finalist.trial.number),
        select=finalist.select,
        objective=objectives.values(scores),
        violation=objectives.violation(scores),
        seconds=dict(finalist.seconds),
        dropped_after=finalist.rounds if finalist.is_dropped else None,
    )


def _measure_candidate(
    folder: Path, trial: Trial, *, objectives: ObjectiveSet, tasks: Sequence[str], measure: Measure
) -> SelectedTrial:
    search = read_items(folder, "search", trial.number)
    path = locate_items(folder, "select", trial.number)
    seconds: dict[str, float] = {}

    # Measured once: an earlier session's scores of this trial are as good.
    if path.exists():
        discard_blocks(path)
        select = check_items(read_items(folder, "select", trial.number), tasks=tasks, where=str(path))
    else:
        with journal_blocks(path, describe_point(trial.point)):
            measurement = measure(trial.point, "select")
        select = check_items(measurement.items, tasks=tasks, where=f"trial {trial.number} on select items")
        seconds = dict(measurement.seconds)
        write_items(path, select, answers=measurement.answers)
        discard_blocks(path)

    scores = average_scores(select)
    return SelectedTrial(
        trial=trial,
        search=search,
        select=select,
        objective=objectives.values(scores),
        violation=objectives.violation(scores),
        seconds=seconds,
    )


def _choose_best(candidates: Sequence[SelectedTrial], *, scale: Sequence[float]) -> SelectedTrial:
    points = [candidate.objective for candidate in candidates]
    # With one objective the order is the score's own, and no scale comes into it.
    losses = measure_distances_to_ideal(points, scale=scale) if len(scale) > 1 else [-point[0] for point in points]
    return min(zip(candidates, losses, strict=True), key=lambda pair: (pair[0].violation, pair[1]))[0]


def _explain_none_complete(folder: Path, trials: Sequence[Trial]) -> RunFailedError:
    reasons = [trial.error for trial in trials if trial.error]
    last = f", the last with: {reasons[-1]}" if reasons else ""
    found = f"expected a complete trial to choose from, found none; {len(reasons)} of {len(trials)} failed{last}"
    return RunFailedError(str(folder), found, f"Mend the cause and raise `search.trials`, then --resume {folder}.")
