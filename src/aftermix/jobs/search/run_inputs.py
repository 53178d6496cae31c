"""Models, tasks and evaluator of a search or a mixture, opened and compared before its folder is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, EvaluateConfig
from aftermix.errors import SearchError, printable, refuse_if_any
from aftermix.evaluation.suites.contract import EvaluationSuite, count_answered_items
from aftermix.jobs.compare.checks import refuse_bad_rivals
from aftermix.jobs.evaluate.opening import open_task_suite
from aftermix.jobs.evaluator import MergeEvaluator, build_split_record
from aftermix.jobs.merge.command import refuse_output
from aftermix.jobs.merge.kinship import list_kinship_remarks
from aftermix.jobs.merge.sentence_modules import find_unscored_modules
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.search.score_lock import (
    build_evaluation_lock,
    is_hashed,
    read_threads,
    refuse_other_function,
    refuse_other_scores,
)
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.answers.reading import keeps_answers, read_requests
from aftermix.runs.answers.requests import REQUESTS_FILE
from aftermix.runs.input_records import EvaluationLockRecord, SplitRecord
from aftermix.search.objective import ObjectiveSet
from aftermix.search.space import SearchSpace


def open_run_suite(config: EvaluateConfig, run: Path) -> EvaluationSuite:
    """The evaluation of the run in `run`, split as it was, whose requests are those of the run where it keeps answers.

    Raises as :func:`~aftermix.jobs.evaluate.opening.open_task_suite`.
    """
    suite = open_task_suite(config, equal_rows_together=is_hashed(run))
    if keeps_answers(run):
        suite.adopt_requests(read_requests(run))
    return suite


def _list_checked_rivals(config: Config, run: Path) -> list[str]:
    """Rows that the run in `run` has looked at before it began."""
    before = read_run_config(run).compare
    return [name for name, rival in config.compare.items() if before.get(name) == rival]


@dataclass(frozen=True)
class RunInputs:
    """Inputs of the run in `run`; with `resume`, it goes on, and keeps to what it began with."""

    run: Path
    resume: bool
    pool: ModelPool
    suite: EvaluationSuite
    split: SplitRecord

    @staticmethod
    def open(config: Config, run: Path, *, resume: bool, log: Callable[[str], object]) -> RunInputs:
        """Open the models of `config` and build its tasks; `log` is told of vectors that may be of another base.

        Raises :class:`AftermixError` for whatever is wrong with either, and for a new run whose folder is occupied.
        """
        assert config.evaluate is not None  # noqa: S101 - every caller requires it; for the type checker
        pool = open_pool(config)
        if not resume:
            refuse_output(run, pool)
            refuse_if_any(find_unscored_modules(pool, config.merge))
        refuse_bad_rivals(config, pool, checked=_list_checked_rivals(config, run) if resume else ())
        for remark in list_kinship_remarks(pool):
            log(str(remark))

        suite = open_run_suite(config.evaluate, run) if resume else open_task_suite(config.evaluate)
        return RunInputs(run, resume, pool, suite, build_split_record(suite))

    def tell_split(self, objectives: ObjectiveSet, log: Callable[[str], object]) -> None:
        """Tell `log`, of a new run, which tasks have fewer items than asked for, and what the test items can tell."""
        if self.resume:
            return
        for name, items in self.suite.tasks.items():
            if items.note:
                log(printable(f"task '{name}': {items.note}"))
        for line in objectives.describe_resolution(count_answered_items(self.suite)):
            log(line)

    def open_evaluator(
        self, config: Config, recipe: MergeRecipe, space: SearchSpace
    ) -> tuple[MergeEvaluator, EvaluationLockRecord]:
        """The evaluator, with the threads that the run began with, and the lock on what it scores.

        A run that goes on keeps the answers of its candidates if it has done so from its beginning.

        Raises :class:`SearchError` when what decides a score, or the requests whose answers are kept, have changed
        since the run began.
        """
        threads, keeps = (read_threads(self.run), keeps_answers(self.run)) if self.resume else (None, True)
        if self.resume:
            refuse_other_function(self.run, self.suite.function)
        evaluator = MergeEvaluator.open(
            config, self.pool, recipe, space=space, suite=self.suite, threads=threads, keeps_answers=keeps
        )
        evaluation = build_evaluation_lock(self.pool, evaluator.model_evaluator, threads=evaluator.threads)

        if self.resume:
            refuse_other_scores(self.run, evaluation, chat=self.suite.chat)
        if self.resume and keeps and read_requests(self.run) != evaluator.tabulate_requests():
            found = "answers are kept to other requests than these tasks have"
            remedy = "Restore the versions of its packages (`lock.json`), or start a new run in another folder."
            raise SearchError(str(self.run / REQUESTS_FILE), found, remedy)
        return evaluator, evaluation
