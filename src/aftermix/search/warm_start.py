"""Another objective over the same vectors: trials of an earlier run, scored anew from what they stored.

No model runs, but for tasks that the earlier run has no scores of: these are measured apart, and joined to what it has.
The caller makes sure that vectors, merge method and items are those of the earlier run, and says under which settings
of this search a stored trial's merge would be made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aftermix.config import Split
from aftermix.errors import SearchError
from aftermix.runs.answers.candidate import KeptAnswers, locate_arrays, read_answers
from aftermix.runs.answers.reading import read_requests, take_answers
from aftermix.runs.journal import TRIALS_FILE, locate_items, read_items, read_trials
from aftermix.runs.trials import ItemScores, Settings, Trial, average_scores, check_items
from aftermix.search.objective import ObjectiveSet
from aftermix.search.space import SearchSpace


@dataclass(frozen=True)
class ScoredPart:
    """Scores of a merge on some tasks alone, a trial of the journal in `folder`."""

    folder: Path
    trial: Trial
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class ImportedTrial:
    """A trial of another run, renumbered and re-scored, with the item scores it stored."""

    trial: Trial
    search: ItemScores
    select: ItemScores | None
    """Only for trials that were among the other run's candidates."""
    source: Path
    """The other run."""
    source_number: int
    """Number of the trial there."""
    part: ScoredPart | None = None
    """Scores of the tasks that the other run has not."""


def import_trials(
    source: Path,
    *,
    space: SearchSpace,
    tasks: Sequence[str],
    objectives: ObjectiveSet | None,
    settings_of: Callable[[Settings], Settings | None] = dict,
    with_select: bool = True,
    with_outside: bool = False,
) -> list[ImportedTrial]:
    """The complete trials of the run in `source` that lie within `space`, numbered from 0, under `objectives`, if any.

    They keep their weights and scores; `origin` becomes `RUN#n`, `seconds` is empty, for they cost nothing here.
    `settings_of` gives the settings of this search for those of a stored trial, None where none make its merge.
    `with_select` also takes select scores, which must be of all tasks that the search measures. `with_outside` also
    takes trials whose weights lie outside the ranges: they tell what lies there, and are not feasible.

    Raises :class:`SearchError` for other vectors, a task of `tasks` without stored scores, or no trial within `space`.
    """
    complete = [trial for trial in read_trials(source) if trial.is_complete]
    for trial in complete:
        _refuse_other_vectors(trial, source=source, space=space)

    # A stored trial counts where this search could have made the same merge.
    usable = [
        replace(trial, settings=settings)
        for trial in complete
        if (settings := settings_of(trial.settings)) is not None and space.observes(trial.weights, settings)
    ]
    inside = [trial for trial in usable if space.contains(trial.weights, trial.settings)]
    if not inside:
        found = f"expected a complete trial within the file's ranges, found none among {len(complete)} complete ones"
        raise SearchError(str(source / TRIALS_FILE), found, "Name a run that finished trials, or widen the ranges.")

    imported = [
        import_trial(trial, number=number, source=source, tasks=tasks, objectives=objectives, with_select=with_select)
        for number, trial in enumerate(usable if with_outside else inside)
    ]
    return [
        each
        if space.contains(each.trial.weights, each.trial.settings)
        else replace(each, trial=replace(each.trial, feasible=False))
        for each in imported
    ]


def group_by_split(imported: Sequence[ImportedTrial]) -> dict[tuple[Split, int], ItemScores]:
    """The item scores of imported trials by split and new number."""
    stored: dict[tuple[Split, int], ItemScores] = {}
    for imported_trial in imported:
        stored["search", imported_trial.trial.number] = imported_trial.search
        if imported_trial.select is not None:
            stored["select", imported_trial.trial.number] = imported_trial.select
    return stored


def find_answers(imported: Sequence[ImportedTrial], run: Path, split: Split, number: int) -> KeptAnswers | None:
    """Answers of imported trial `number`, where its run kept them and `run` keeps those to the same requests."""
    trial = imported[number]
    part = trial.part
    answers = take_answers(trial.source, split, trial.source_number, run=run, without=part.tasks if part else ())
    if part is None or answers is None:
        return answers

    # Those of the other tasks lie with the measurement that has their scores.
    items, ours = locate_items(part.folder, split, part.trial.number), read_requests(run)
    if not locate_arrays(items).is_file():
        return None
    noun = f"the log-likelihoods of {items.stem}"
    own = read_answers(items, {task: ours[task] for task in part.tasks}, split, noun=noun)
    return {task: own[task] if task in own else answers[task] for task in ours}


def _refuse_other_vectors(trial: Trial, *, source: Path, space: SearchSpace) -> None:
    if trial.weights.keys() != space.bounds.keys():
        where = f"{source / TRIALS_FILE}, line {trial.number + 1}"
        found = f"expected weights of {', '.join(space.names)}, found {', '.join(trial.weights)}"
        raise SearchError(where, found, "Search anew: stored scores hold for the same vectors only.")


def import_trial(
    trial: Trial,
    *,
    number: int,
    source: Path,
    tasks: Sequence[str],
    objectives: ObjectiveSet | None,
    with_select: bool,
    run_name: str | None = None,
) -> ImportedTrial:
    """A complete trial of the journal in `source` under another `number`; `run_name` says whose it is, in its origin.

    Without `objectives` it has none: those of tasks whose scores :func:`complete_trial` joins to these. Raises
    :class:`SearchError` for a task of `tasks` without stored scores.
    """
    search = _read_stored(source, "search", trial.number, tasks)
    has_select = with_select and locate_items(source, "select", trial.number).exists()
    scores = average_scores(search)

    rescored = replace(
        trial,
        number=number,
        scores=scores,
        objective=objectives.values(scores) if objectives else None,
        feasible=objectives is not None and objectives.feasible(scores),
        seconds={},
        origin=f"{run_name or source.resolve().name}#{trial.number}",
        strategy=None,
        batch=None,
        worker=None,
        attempt=None,
        tokens=None,
    )
    select = _read_stored(source, "select", trial.number, tasks) if has_select else None
    return ImportedTrial(rescored, search, select, source, trial.number)


def complete_trial(
    imported: ImportedTrial, part: ScoredPart, *, number: int, tasks: Sequence[str], objectives: ObjectiveSet
) -> ImportedTrial:
    """`imported` under another `number`, with scores of all `tasks`: those of `part` measured there, and its cost."""
    measured = read_items(part.folder, "search", part.trial.number)
    search = {task: measured[task] if task in part.tasks else imported.search[task] for task in tasks}
    scores = average_scores(search)
    trial = replace(
        imported.trial,
        number=number,
        scores=scores,
        objective=objectives.values(scores),
        feasible=objectives.feasible(scores),
        seconds=part.trial.seconds,
        tokens=part.trial.tokens,
    )
    return replace(imported, trial=trial, search=search, select=None, part=part)


def _read_stored(source: Path, split: Split, number: int, tasks: Sequence[str]) -> ItemScores:
    stored = read_items(source, split, number)
    missing = [task for task in tasks if task not in stored]
    if missing:
        found = f"expected stored scores of task '{missing[0]}', found only {', '.join(stored)}"
        remedy = "Leave that task out, or search anew with it among `evaluate.tasks`."
        raise SearchError(str(locate_items(source, split, number)), found, remedy)
    return check_items(stored, tasks=tasks, where=str(locate_items(source, split, number)))
