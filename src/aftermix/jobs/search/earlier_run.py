"""Settings under which a search would make a merge that an earlier run has scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aftermix import progress
from aftermix.config import Config
from aftermix.config.places import list_range_rules
from aftermix.errors import SearchError, join_place
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.search.beginning.missing_tasks import describe_missing
from aftermix.jobs.search.score_lock import describe_left_out, find_other_tasks, list_needed_tasks
from aftermix.jobs.search.settings import apply_settings
from aftermix.jobs.search.space_from_config import read_own_settings
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.input_records import EvaluationLockRecord
from aftermix.runs.trials import Settings
from aftermix.search.objective import ObjectiveSet
from aftermix.search.space import SearchSpace
from aftermix.search.warm_start import ImportedTrial, import_trials


@dataclass(frozen=True)
class ComparableTrials:
    """Trials of an earlier run with those of their scores that hold."""

    trials: Sequence[ImportedTrial] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    """Task that they have to be scored on -> the reason why stored scores do not do; they have no objective before."""
    is_whole: bool = False
    """True if every task is the one that the earlier run has scores of."""

    @property
    def use(self) -> str:
        """`scored anew`, or on which tasks."""
        return describe_missing(self.missing) if self.missing else "scored anew"


def import_comparable_trials(
    source: Path,
    evaluation: EvaluationLockRecord,
    *,
    evaluator: MergeEvaluator,
    space: SearchSpace,
    objectives: ObjectiveSet,
) -> ComparableTrials:
    """Trials of the run in `source` with those of their scores that are of the tasks that `evaluation` describes.

    Scores of a task that has changed are left out. Where the objective needs such a task, or one that the run has not
    measured, its scores are missing; where no score holds at all, no trial is taken. One line says so.

    Raises :class:`SearchError` as :func:`~aftermix.search.warm_start.import_trials` does, and for another tokenizer or
    chat template.
    """
    _refuse_other_rules(source, evaluator.config)
    others = find_other_tasks(source, evaluation, chat=evaluator.model_evaluator.suite.chat)
    held = [task for task in evaluator.tasks if task not in others]
    missing = others if list_needed_tasks(objectives) & others.keys() else {}
    if others and not (missing and held):
        progress.say(describe_left_out(source, others, objectives))
    if not held:
        return ComparableTrials()

    trials = import_trials(
        source,
        space=space,
        tasks=held,
        objectives=None if missing else objectives,
        settings_of=_build_translation(read_run_config(source), evaluator.config, space),
        with_select=not others,
        # A response learns from what lies outside, too; to score tasks anew there would cost more than it tells.
        with_outside=evaluator.config.search.strategy == "response" and not missing,
    )
    comparable = ComparableTrials(trials, missing, is_whole=not others)
    if missing:
        progress.say(f"--from {source}: {len(trials)} trials are {comparable.use}")
    return comparable


def _refuse_other_rules(source: Path, ours: Config) -> None:
    """Weights of one name hold for the same tensors only where all rules before them are the same too."""
    theirs = read_run_config(source)
    for name in theirs.vectors.keys() & ours.vectors.keys():
        before, now = (
            [rule.match for rule in list_range_rules(config.vectors[name].range)] for config in (theirs, ours)
        )
        if before != now:
            where = join_place("vectors", name, "range")
            remedy = "Restore the rules, or search anew without --from."
            raise SearchError(str(source), f"its weights are of other rules by the place than those of {where}", remedy)


def _build_translation(theirs: Config, ours: Config, space: SearchSpace) -> Callable[[Settings], Settings | None]:
    """Build the function from settings under the file `theirs` to those of `space`, under `ours`, of the same merge.

    What one file searches, the other may fix: a fixed value is a point, and of searched ones those that equal the
    fixed one are kept. None where there is no such point.
    """

    def translate(settings: Settings) -> Settings | None:
        measured = apply_settings(theirs, settings)
        own = read_own_settings(measured, space.settings)
        return own if _collect_decisive(apply_settings(ours, own)) == _collect_decisive(measured) else None

    return translate


def _collect_decisive(config: Config) -> dict[str, Any]:
    """All that decides a merge besides inputs and weights, whichever way the file says it."""
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    method, names = recipe.method, list(config.vectors)
    shares = method.compute_ratios(names) if method.is_exclusive else {}
    options = {name: method.collect_options(name) | {"ratio": shares.get(name)} for name in names}
    for held in options.values():
        held.pop("density" if method.is_exclusive else "ratio")

    settled = {"exclude": recipe.exclude, "seed": recipe.seed, "lambda": recipe.scale, "dtype": recipe.dtype}
    return {"method": method.name, "options": options} | settled
