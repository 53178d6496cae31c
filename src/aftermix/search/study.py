"""The search itself: propose, measure, write down; again until the trials are spent (OptiMer, Algorithm 1)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from aftermix import progress
from aftermix.config import SearchConfig
from aftermix.errors import (
    AftermixError,
    EvaluationError,
    InputFaultError,
    RunFailedError,
    SearchError,
    describe_cause,
)
from aftermix.runs import journal
from aftermix.runs.answers.blocks import journal_blocks
from aftermix.runs.answers.candidate import KeptAnswers
from aftermix.runs.answers.reading import read_kept_answers
from aftermix.runs.trials import (
    Announce,
    ItemMeasurement,
    ItemScores,
    Measure,
    Point,
    ProposedPoint,
    Suggestion,
    Trial,
    WorkerAttempt,
    average_scores,
    check_items,
    describe_point,
    read_attempt,
)
from aftermix.search.batches import BatchQueue, ProposeBatch
from aftermix.search.budget import TokenBudget
from aftermix.search.objective import ObjectiveSet
from aftermix.search.pareto import find_front
from aftermix.search.space import SearchSpace
from aftermix.search.warm_start import ImportedTrial, find_answers, group_by_split

LEAST_DESIGN = 4
"""Trials below which equal scores are no evidence: on a dozen items two near merges often answer alike."""
TASK_FAULTS = ("task '", "item '")
"""Openings of the place of a fault that lies in a task, its scoring or its answers."""


@dataclass(frozen=True)
class EndedTrial:
    """A trial with its item scores and kept answers, or a failed one with what was raised."""

    trial: Trial
    items: ItemScores | None = None
    answers: KeptAnswers | None = None
    fault: Exception | None = None


def run_study(
    folder: Path,
    *,
    space: SearchSpace,
    config: SearchConfig,
    tasks: Sequence[str],
    measure: Measure,
    imported: Sequence[ImportedTrial] = (),
    propose: ProposeBatch | None = None,
    design: int | None = None,
    budget: TokenBudget | None = None,
    announce: Announce | None = None,
    label: str = "search",
    after_trial: Callable[[Trial], object] = lambda _: None,
) -> list[Trial]:
    """Begin or resume the search whose journal lies in `folder`, and return all its trials.

    `propose` gives the points of the next batch from the trials before them, and nothing else may decide them; by
    default the sampler does, `config.points_at_once` at a time. None proposed ends the search. The last batch is
    proposed whole, too, and a longer search goes on with what is left of it. `label` stands at the progress bar. The
    caller keeps other processes from `folder`.

    After `design` new trials, by default those of the sampler's first design, a search whose items all scored the same
    stops; one that hands in its own `propose` says if it has such a design.

    `announce` is told of all points of a batch before the first of them is measured, so that they may be measured at
    the same time; the journal has them in order all the same. Points that have been measured, and those for which the
    budget may have no room, are left out.

    With a `budget` the search ends before the first trial for which that has no room, and the last batch may be left
    in part.

    `imported` trials of another run come first and are written with the first line; `config.trials` new ones follow.
    A trial whose `measure` raises is recorded as failed and the search goes on. An input that changed
    (:class:`InputFaultError`) and a fault of the system (`OSError`) are no fault of its weights: they end the search,
    and no trial is recorded. Killed at any instant or interrupted, the search resumes by the same call and gives the
    trials that the uninterrupted one would have given.

    Raises :class:`SearchError` for objectives, a journal or imports that do not fit, before anything is measured, and
    :class:`RunFailedError` after `config.max_consecutive_failures` failed trials in a row, or when the first design
    (`config.startup` trials) of a search scored the same on every item.
    """
    objectives = ObjectiveSet.build(config.objective, tasks=tasks)
    folder.mkdir(parents=True, exist_ok=True)
    trials = _begin(folder, imported)
    for trial in trials:
        _refuse_foreign(trial, folder=folder, space=space, objectives=objectives)

    total = sum(trial.is_imported for trial in trials) + config.trials
    if design is None and propose is None:
        design = config.startup_trials
    watched = None if design is None else total - config.trials + min(config.trials, max(design, LEAST_DESIGN))
    failures = 0
    ask = propose or partial(suggest_batch, space, config, objectives)
    queue = BatchQueue.reopen(folder, trials, propose=ask, wanted=config.points_at_once, space=space)

    with progress.counter(label=label, total=total, done=len(trials), unit="trial") as advance:
        while len(trials) < total and (budget is None or budget.has_room(trials)):
            if watched is not None and len(trials) >= watched:
                _refuse_all_equal(folder, trials, objectives)
            if announce is not None:
                waiting = queue.list_open(trials)[: total - len(trials)]
                _announce_batch(folder, trials, waiting, tasks=tasks, budget=budget, announce=announce)
            known = partial(_measure_once, folder, trials, tasks, measure)
            ended = _run_trial(queue, objectives=objectives, trials=trials, tasks=tasks, measure=known)
            if ended is None:
                break

            # Written down before it counts: a killed search loses no ended trial.
            journal.append_trial(folder, ended.trial, ended.items, answers=ended.answers)
            trials.append(ended.trial)
            after_trial(ended.trial)
            advance(describe_best(trials, objectives))

            fault = ended.fault
            failures = failures + 1 if fault else 0
            if fault and failures >= config.max_consecutive_failures:
                raise _explain_stop(folder, trials, failures, fault) from fault
            if len(trials) == total == watched:
                _refuse_all_equal(folder, trials, objectives)

    if watched is not None and len(trials) < watched:  # a budget that ends within the first design
        _refuse_all_equal(folder, trials, objectives)
    return trials


def _begin(folder: Path, imported: Sequence[ImportedTrial]) -> list[Trial]:
    trials = journal.reopen(folder)
    if not trials and imported:
        trials = [imported_trial.trial for imported_trial in imported]
        answers_of = partial(find_answers, imported, folder)
        journal.write_imported(folder, trials, group_by_split(imported), answers_of=answers_of)
    already = [trial for trial in trials if trial.is_imported]
    if imported and [imported_trial.trial.point for imported_trial in imported] != [trial.point for trial in already]:
        found = f"expected no trials or the same {len(imported)} imported ones, found {len(trials)} others"
        raise SearchError(str(folder / journal.TRIALS_FILE), found, "Resume without importing, or name a new folder.")
    return trials


def _refuse_foreign(trial: Trial, *, folder: Path, space: SearchSpace, objectives: ObjectiveSet) -> None:
    """Refuse a journal of another search: other vectors or ranges, tasks or objectives."""
    where = f"{folder / journal.TRIALS_FILE}, line {trial.number + 1}"
    remedy = "Resume with the run's own config.yaml, or start a new run from this one with --from."
    if not space.admits(trial.weights, trial.settings, origin=trial.origin):
        kind = "weights and settings" if space.settings or trial.settings else "weights"
        found = trial.weights | trial.settings
        raise SearchError(where, f"expected {kind} within {space}, found {found}", remedy)

    if not trial.is_complete:
        return
    needed = {task for goal in objectives.goals for task in goal.weights} | objectives.floors.keys()
    missing = sorted(needed - trial.scores.keys())
    if missing:
        raise SearchError(where, f"expected a score of task '{missing[0]}', found none", remedy)
    if trial.objective != (values := objectives.values(trial.scores)):
        raise SearchError(where, f"expected the objective {values}, found {trial.objective}", remedy)


def _measure_once(
    folder: Path, trials: Sequence[Trial], tasks: Sequence[str], measure: Measure, point: Point
) -> ItemMeasurement:
    """The search scores at `point`: measured, unless an earlier trial stood there; a score is the point's alone.

    An imported trial may lack the score of a task that has changed since.
    """
    same = _find_same(trials, tasks, point)
    if same is None:
        with journal_blocks(journal.locate_items(folder, "search", len(trials)), describe_point(point)):
            return measure(point, "search")
    try:
        answers = read_kept_answers(folder, "search", same.number)
        return ItemMeasurement(journal.read_items(folder, "search", same.number), answers=answers, tokens=0)
    except AftermixError as error:  # a damaged file of the run says nothing of these weights
        raise InputFaultError(*error.problem.parts) from error


def _find_same(trials: Sequence[Trial], tasks: Sequence[str], point: Point) -> Trial | None:
    """The first trial that stood at `point` and has a score of every task."""
    known = (trial for trial in trials if trial.is_complete and trial.scores.keys() >= set(tasks))
    return next((trial for trial in known if trial.point == point), None)


def _announce_batch(
    folder: Path,
    trials: Sequence[Trial],
    waiting: Sequence[ProposedPoint],
    *,
    tasks: Sequence[str],
    budget: TokenBudget | None,
    announce: Announce,
) -> None:
    """Tell of the `waiting` points that will surely be measured; of equal ones only the first is."""
    seen: list[Point] = []
    for more, proposed in enumerate(waiting, 1):
        point = proposed.point
        if budget is not None and not budget.has_room(trials, more=more):
            return
        if point in seen or _find_same(trials, tasks, point) is not None:
            continue
        seen.append(point)
        with journal_blocks(journal.locate_items(folder, "search", proposed.number), describe_point(point)):
            announce(point, "search")


def suggest_batch(
    space: SearchSpace, config: SearchConfig, objectives: ObjectiveSet, trials: Sequence[Trial], wanted: int
) -> list[Suggestion]:
    """The sampler's points, each told of those before it in the batch, which have no scores yet."""
    from aftermix.search.sampler import suggest  # here, so that a reader of finished runs never imports Optuna

    batch: list[Suggestion] = []
    for number in range(len(trials), len(trials) + wanted):
        running = [suggestion.point for suggestion in batch]
        batch.append(
            suggest(space, config=config, objectives=objectives, trials=trials, number=number, running=running)
        )
    return batch


def _run_trial(
    queue: BatchQueue,
    *,
    objectives: ObjectiveSet,
    trials: Sequence[Trial],
    tasks: Sequence[str],
    measure: Callable[[Point], ItemMeasurement],
) -> EndedTrial | None:
    """The next trial, measured or failed; None where no point is proposed any more."""
    started, number = perf_counter(), len(trials)
    proposed = queue.take_next(trials)
    if proposed is None:
        return None
    stands = _list_origin(proposed, is_recorded=queue.is_recorded)

    by = WorkerAttempt()

    try:
        measurement = measure(proposed.point)
        by = measurement.by
        items = check_items(measurement.items, tasks=tasks, where=f"trial {number}")
    except (InputFaultError, OSError):
        raise  # a changed input or a full disk would fail every point: it says nothing of these weights
    except Exception as error:
        _drop_frames(error)
        seconds = {"overhead": perf_counter() - started}
        reason = str(error) if isinstance(error, AftermixError) else describe_cause(error)
        stands |= _list_attempt(read_attempt(error, otherwise=by), is_recorded=queue.is_recorded)
        return EndedTrial(Trial(number=number, state="failed", **stands, seconds=seconds, error=reason), fault=error)

    stands |= _list_attempt(by, is_recorded=queue.is_recorded)
    scores = average_scores(items)
    spent = {phase: float(seconds) for phase, seconds in measurement.seconds.items()}
    trial = Trial(
        number=number,
        state="complete",
        **stands,
        scores=scores,
        objective=objectives.values(scores),
        feasible=objectives.feasible(scores) and queue.space.contains(proposed.weights, proposed.settings),
        tokens=measurement.tokens if queue.is_recorded else None,
        seconds={**spent, "overhead": max(0.0, perf_counter() - started - sum(spent.values()))},
    )
    return EndedTrial(trial, items, measurement.answers)


def _list_origin(proposed: ProposedPoint, *, is_recorded: bool) -> dict[str, Any]:
    """Fields of the trial at `proposed` that are known before it is measured; a run of old has fewer."""
    fields: dict[str, Any] = {"weights": proposed.weights, "settings": proposed.settings, "origin": proposed.origin}
    if is_recorded:
        fields |= {"strategy": proposed.strategy, "batch": proposed.batch}
    return fields


def _list_attempt(by: WorkerAttempt, *, is_recorded: bool) -> dict[str, int]:
    return {"worker": by.worker, "attempt": by.attempt} if is_recorded else {}


def _refuse_all_equal(folder: Path, trials: Sequence[Trial], objectives: ObjectiveSet) -> None:
    """Stop a search whose first design found nothing to choose by: every item scored the same at all points.

    Equal means over items that differ are no reason to stop: more trials may tell them apart.
    """
    complete = [trial for trial in trials if trial.is_complete]
    points = {(tuple(sorted(trial.weights.items())), tuple(sorted(trial.settings.items()))) for trial in complete}
    tasks = sorted({task for goal in objectives.goals for task in goal.weights} | objectives.floors.keys())
    scores = {tuple(trial.scores[task] for task in tasks) for trial in complete}
    if len(complete) < LEAST_DESIGN or len(points) < 2 or len(scores) > 1:
        return

    first, *others = (journal.read_items(folder, "search", trial.number) for trial in complete)
    if any(items[task] != first[task] for items in others for task in tasks):
        return
    told = ", ".join(f"{task} {complete[0].scores[task]:g}" for task in tasks)
    raise RunFailedError(
        str(folder),
        f"all {len(complete)} trials of the first design scored the same on every search item ({told}), so that no "
        "merge is better than another; the trials are kept",
        "Look whether the answers and the metric of these tasks are right, take another metric, more "
        "`evaluate.items.search` or wider ranges, and start a new run with `aftermix search FILE -o NEW`.",
        takes_new_run=True,
        scores_serve=False,
    )


def _drop_frames(error: BaseException | None) -> None:
    """Clear the frames of `error` and of what it came from.

    They would keep a merge's tensors alive through the next trial, after an out-of-memory of all errors.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def describe_best(trials: Sequence[Trial], objectives: ObjectiveSet) -> str:
    """Text of the progress bar: the best trial that meets the floors, or the size of the front."""
    usable = [trial for trial in trials if trial.is_complete and trial.feasible]
    if not usable:
        return "none meets the floors" if any(trial.is_complete for trial in trials) else "none complete"
    if not objectives.is_single:
        return f"front of {len(find_front([trial.values for trial in usable]))}"
    best = max(usable, key=lambda trial: trial.values)
    return f"best {best.values[0]:.4f} at trial {best.number}"


def _explain_stop(folder: Path, trials: Sequence[Trial], failures: int, fault: Exception) -> RunFailedError:
    complete = sum(trial.is_complete for trial in trials)
    found = f"{failures} trials in a row failed, the last with: {trials[-1].error}"
    if isinstance(fault, EvaluationError) and fault.problem.where.startswith(TASK_FAULTS):
        remedy = "Mend it and start a new run: scores of one run are of tasks that stay as they are."
        return RunFailedError(str(folder), found, remedy, takes_new_run=True, scores_serve=False)
    return RunFailedError(str(folder), found, f"Mend the cause, then go on; {complete} complete trials are kept.")
