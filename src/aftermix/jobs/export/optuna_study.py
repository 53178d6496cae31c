"""`aftermix export --to optuna`: the trials of a search as a study of Optuna, for its dashboard and analyses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from aftermix.errors import ConfigError
from aftermix.jobs.export.output_place import refuse_output
from aftermix.jobs.search.space_from_config import build_space
from aftermix.runs.reader import RunContents, read_run
from aftermix.runs.trials import Setting, Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.sampler import TRIAL_STATES, silence_optuna
from aftermix.search.space import NumberRange, SearchSpace, format_setting

BEGIN = datetime(1970, 1, 1)
"""Start of the first trial: a run keeps how long its trials took, and no time of day."""


def export_optuna(run: Path, output: Path) -> list[str]:
    """Write the search in `run`, finished or not, as the new journal file `output`, and return notes on it.

    Weights are parameters of their vector's name, searched settings are `settings.NAME`; what was tried outside the
    ranges widens the range of its own trial. Floors are constraints. Scores (`scores.TASK`), origin, strategy and error
    are attributes of a trial.

    Raises :class:`AftermixError`, with nothing written, for a folder that is no run of a search, a run without an ended
    trial, and an output that exists.
    """
    refuse_output(output, is_file=True)
    contents = read_run(run)
    if contents.config.mixture is not None:
        found = "is the run of a mixture, whose points are a design on the simplex and no trials"
        raise ConfigError(str(run), found, "Name the run of a search.")
    if not contents.trials:
        raise ConfigError(str(run), "has no ended trial", "Let the search run first.")

    objectives = _build_objectives(contents)
    trials = _freeze_trials(contents.trials, build_space(contents.config), objectives)
    _write_study(run.resolve().name, objectives, trials, output)
    complete = sum(trial.state is TrialState.COMPLETE for trial in trials)
    return [f"Study '{run.resolve().name}': {len(trials)} trials, {complete} complete"]


def _build_objectives(contents: RunContents) -> ObjectiveSet:
    """Of the tasks that were measured, or, before any was, of those that the objectives name."""
    goals = contents.config.search.objective
    scored = next((list(trial.scores) for trial in contents.trials if trial.is_complete), [])
    named = [task for goal in goals for task in (*goal.tasks, *goal.floors)]
    return ObjectiveSet.build(goals, tasks=scored or list(dict.fromkeys(named)) or ["score"])


def _freeze_trials(trials: Sequence[Trial], space: SearchSpace, objectives: ObjectiveSet) -> list[FrozenTrial]:
    """The trials as Optuna keeps them, one beginning as the one before it ends."""
    frozen, begin = [], BEGIN
    for trial in sorted(trials, key=lambda each: each.number):
        end = begin + timedelta(seconds=sum(trial.seconds.values()))
        frozen.append(_freeze_trial(trial, space, objectives, begin, end))
        begin = end
    return frozen


def _freeze_trial(
    trial: Trial, space: SearchSpace, objectives: ObjectiveSet, begin: datetime, end: datetime
) -> FrozenTrial:
    settings = {f"settings.{name}": _show_setting(space, name, value) for name, value in trial.settings.items()}
    ranges = {name: _describe_weight(space, name, weight) for name, weight in trial.weights.items()}
    kinds = {f"settings.{name}": _describe_setting(space, name, value) for name, value in trial.settings.items()}

    made = optuna.trial.create_trial(
        params={**trial.weights, **settings},
        distributions={**ranges, **kinds},
        state=TRIAL_STATES[trial.state],
        values=trial.values if trial.is_complete else None,
        constraints=objectives.constraints(trial.scores) if trial.is_complete else None,
        user_attrs={
            **{f"scores.{task}": score for task, score in trial.scores.items()},
            **{key: getattr(trial, key) for key in ("origin", "strategy", "error") if getattr(trial, key) is not None},
        },
    )

    made.datetime_start, made.datetime_complete = begin, end
    return made


def _describe_weight(space: SearchSpace, name: str, weight: float) -> BaseDistribution:
    low, high = space.bounds.get(name, (weight, weight))
    return FloatDistribution(min(low, weight), max(high, weight))


def _show_setting(space: SearchSpace, name: str, value: Setting) -> float | str:
    """A number as it is, a choice as a person writes it: a list is none of the values that Optuna stores."""
    kind = space.settings.get(name)
    return kind.nearest(value) if isinstance(kind, NumberRange) else format_setting(value)


def _describe_setting(space: SearchSpace, name: str, value: Setting) -> BaseDistribution:
    kind = space.settings.get(name)
    if isinstance(kind, NumberRange):
        return FloatDistribution(kind.low, kind.top, step=kind.step)
    return CategoricalDistribution([format_setting(each) for each in (kind.values if kind else (value,))])


def _write_study(name: str, objectives: ObjectiveSet, trials: Sequence[FrozenTrial], output: Path) -> None:
    with silence_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of named metrics, since 3.2
        storage = JournalStorage(JournalFileBackend(str(output)))
        directions = [StudyDirection.MAXIMIZE] * len(objectives.goals)
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        study.set_metric_names([goal.name for goal in objectives.goals])
        study.add_trials(trials)
