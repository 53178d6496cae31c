"""`EarlierMerges`: merges that an earlier mixture run has measured, as points of this mixture or of a tree's group.

A merge is a point of a problem if its weights are those that some mixture of the problem's members stands for. No known
point is run again, but on tasks that the earlier run has no scores of; which merges are taken, and why others are not,
is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aftermix import progress
from aftermix.checkpoints.pool import ModelPool
from aftermix.config import Config
from aftermix.config.places import describe_weight
from aftermix.errors import SearchError
from aftermix.jobs.evaluator import MergeEvaluator, ModelEvaluator
from aftermix.jobs.mixture.earlier.vectors import VectorMatch, is_same_base, match_vectors
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.provenance import lock
from aftermix.jobs.run_folder.comparison import refuse_difference, refuse_other_kind, refuse_other_measuring
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.search.beginning.missing_tasks import MissingTaskScorer, describe_missing
from aftermix.jobs.search.score_lock import describe_left_out, find_other_tasks
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.input_records import LOCK_FILE, EvaluationLockRecord, LockRecord, SplitRecord
from aftermix.runs.journal import TRIALS_FILE, read_trials
from aftermix.runs.reader import LEVELS_FOLDER
from aftermix.runs.trials import Trial, Weights
from aftermix.search.objective import ObjectiveSet
from aftermix.search.warm_start import ImportedTrial, import_trial

ROUNDING = 1e-9


@dataclass(frozen=True)
class EarlierMerges:
    """Merges of the run in `source` whose scores hold here."""

    source: Path
    match: VectorMatch
    tasks: tuple[str, ...]
    """Tasks whose stored scores hold."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Further task -> the reason why its scores do not: merges that are taken are scored on it."""
    holds: bool = True
    """False where no stored score holds: no merge is taken then."""

    @classmethod
    def open(
        cls, source: Path, config: Config, pool: ModelPool, *, problem: MixtureProblem, split: SplitRecord
    ) -> EarlierMerges:
        """The merges of `source`; raises :class:`SearchError` where none of its scores could be of these models.

        That is so for a search's run, another base, merge method, items, or weight of an instruction vector.
        """
        refuse_other_kind(source, mixture=True)
        theirs, ours = LockRecord.read(source / LOCK_FILE), lock(pool, config)
        method = MergeRecipe.from_config(config.merge, vectors=config.vectors).method
        match = match_vectors(theirs, ours, tuple(config.vectors), method=method)

        if not is_same_base(theirs, ours):
            _refuse(source, "its base has another content", "Name a run of this base.")
        if method.is_exclusive and not match.is_whole:
            found = f"{method.name} shares entries out among all vectors, and the run had others"
            _refuse(source, found, "Restore its vectors, or measure anew without --from.")
        refuse_other_measuring(source, config=config, split=split, shared=match.same)
        both = theirs.statistics.keys() & ours.statistics.keys()
        before, now = ({name: side.statistics[name] for name in both} for side in (theirs, ours))
        refuse_difference(source, before, now, complaint="other statistics now lie in")
        _refuse_other_instruction(source, match, problem)
        return cls(source, match, ())

    def keep_tasks(
        self,
        evaluation: EvaluationLockRecord,
        evaluator: ModelEvaluator,
        *,
        tasks: Sequence[str],
        objectives: ObjectiveSet,
    ) -> EarlierMerges:
        """These merges with the tasks of `evaluation` that they have scores of; where that is none, a line says so."""
        others = find_other_tasks(self.source, evaluation, chat=evaluator.suite.chat)
        kept = tuple(task for task in tasks if task not in others)
        if not kept:
            progress.say(describe_left_out(self.source, others, objectives))
        return replace(self, tasks=kept, missing=others, holds=bool(kept))

    def list_points(self, problem: MixtureProblem) -> list[tuple[Path, Trial]]:
        """The merges that are points of `problem`, once each, with the folder of their journal."""
        found: list[tuple[Path, Trial]] = []
        for folder, trial in self._list_merges() if self.holds else ():
            weights = self.match.translate_weights(trial.weights)
            if weights is None or not problem.space.contains(weights) or not _is_point(problem, weights):
                continue
            moved = replace(trial, weights=weights)
            if all(_measure_distance(weights, other.weights) > ROUNDING for _, other in found):
                found.append((folder, moved))
        return found

    def import_points(self, problem: MixtureProblem, objectives: ObjectiveSet) -> list[ImportedTrial]:
        """The points of `problem` as trials of a study, numbered from 0, and without an objective where scores are
        missing.

        Raises :class:`SearchError` for a task whose scores the run has not, although its lock has it.
        """
        return [
            import_trial(
                trial,
                number=number,
                source=folder,
                tasks=self.tasks,
                objectives=None if self.missing else objectives,
                with_select=not self.missing,
                run_name=self._name_journal(folder),
            )
            for number, (folder, trial) in enumerate(self.list_points(problem))
        ]

    def import_all(self, problem: MixtureProblem, objectives: ObjectiveSet) -> list[ImportedTrial]:
        """The points of a mixture without a tree, told where they are not all; raises :class:`SearchError` for none."""
        imported = self.import_points(problem, objectives)
        if self.holds and not imported:
            _refuse(self.source, self.describe(problem), "Name another run, or measure anew without --from.")
        is_partial = len(imported) < len(list(self._list_merges())) or not self.match.is_whole
        if self.holds and (is_partial or self.missing):
            progress.say(f"--from {self.source}: {self.describe(problem)}")
        return imported

    def complete(
        self,
        imported: Sequence[ImportedTrial],
        evaluator: MergeEvaluator,
        folder: Path,
        *,
        problem: MixtureProblem,
        objectives: ObjectiveSet,
    ) -> Sequence[ImportedTrial]:
        """The points of `problem` with scores of all tasks, for the journal in `folder`: the missing ones are measured.

        Raises as :meth:`~aftermix.jobs.search.beginning.missing_tasks.MissingTaskScorer.complete` does.
        """
        if not self.missing or not imported:
            return imported
        scorer = MissingTaskScorer(evaluator, tuple(self.missing), objectives, problem.space)
        return scorer.complete(folder, imported)

    def describe(self, problem: MixtureProblem) -> str:
        """`25 of 40 merges are points of this mixture and are not run again; 15 give a weight to 'code', which is no
        vector of this file; of py, js they tell nothing`"""
        merges, taken = [trial for _, trial in self._list_merges()], len(self.list_points(problem))
        lost = Counter(name for trial in merges if (name := self.match.find_obstacle(trial.weights)) is not None)
        told = [f"{taken} of {len(merges)} merges are points of this mixture and are {self.describe_use()}"]
        told += [f"{count} give a weight to '{name}', which {self.match.gone[name]}" for name, count in lost.items()]

        rest = len(merges) - taken - sum(lost.values())
        told += [f"{rest} are no mixture of its domains, or twice there"] if rest else []
        renamed = [f"'{there}' is '{here}' by now" for there, here in self.match.same.items() if there != here]
        new = ", ".join(name for name in self.match.new if name in problem.experts)
        return "; ".join([*told, *renamed, *([f"of {new} they tell nothing"] if new else [])])

    def describe_use(self) -> str:
        """`not run again`, or on which tasks."""
        return describe_missing(self.missing) if self.missing else "not run again"

    def _list_merges(self) -> Iterator[tuple[Path, Trial]]:
        """Complete trials by journal: of the run, and of the groups of a tree."""
        levels = sorted((self.source / LEVELS_FOLDER).glob(f"*/{TRIALS_FILE}"))
        for folder in (self.source, *(journal.parent for journal in levels)):
            for trial in read_trials(folder):
                if trial.is_complete:
                    yield folder, trial

    def _name_journal(self, folder: Path) -> str:
        name = self.source.resolve().name
        return name if folder == self.source else f"{name}/{LEVELS_FOLDER}/{folder.name}"


def _is_point(problem: MixtureProblem, weights: Weights) -> bool:
    """True if the merge at `weights` is one that a mixture of the problem's members stands for."""
    shares_K = problem.embedding.shares(np.array([[weights[name] for name in problem.experts]]))[0]
    if not np.isfinite(shares_K).all() or shares_K.min() < -ROUNDING or abs(shares_K.sum() - 1) > ROUNDING:
        return False
    return _measure_distance(problem.compute_weights(shares_K), weights) <= ROUNDING


def _measure_distance(first: Weights, second: Weights) -> float:
    return max(abs(first[name] - second[name]) for name in first)


def _refuse_other_instruction(source: Path, match: VectorMatch, problem: MixtureProblem) -> None:
    """Instruction vectors stand at one weight in all merges, or scores are of other models."""
    theirs = read_run_config(source).vectors
    there = {here: name for name, here in match.same.items()}
    for name, weight in problem.instruction.items():
        if name in match.new and weight:
            found = f"its merges are without '{name}', which stands at {weight:g} in every merge of this file"
            _refuse(source, found, "Measure anew without --from.")
        other = theirs[there[name]].weight if name in there else None
        if other is not None and other != weight:
            found = f"scores were measured with '{name}' at {describe_weight(other)}, the file says {weight:g}"
            _refuse(source, found, "Restore its weight, or measure anew without --from.")


def _refuse(source: Path, found: str, remedy: str) -> None:
    raise SearchError(str(source), found, remedy)
