"""Workers of one run: measurements are announced ahead, made at the same time, and taken in the order that asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from aftermix import progress
from aftermix.config import Split
from aftermix.evaluation.places import ItemPlaces
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.orders.opened import plan_opening
from aftermix.jobs.parallel.tasks import MeasureTask, TaskOrder
from aftermix.jobs.parallel.worker import EvaluatorPlan, open_evaluator
from aftermix.merging.prepared import count_prepared_bytes
from aftermix.merging.sharing.vectors import share_vectors
from aftermix.runs.answers.blocks import find_journal
from aftermix.runs.answers.reading import keeps_answers
from aftermix.runs.trials import ItemMeasurement, WorkerAttempt, mark_attempt
from aftermix.runs.workers.lost_attempts import LostAttemptRecord, note_lost_attempt
from aftermix.search.space import SearchSpace
from aftermix.workers.crew import LostAttempt, WorkerCrew
from aftermix.workers.executor import Workplace
from aftermix.workers.opening import WorkerSite


class MeasuringCrew:
    """The crew of a run: each measurement is that of one process, whichever worker makes it."""

    def __init__(self, crew: WorkerCrew) -> None:
        self._crew = crew

    def announce(self, task: MeasureTask, split: Split, places: ItemPlaces | None = None) -> None:
        """Begin a measurement that is soon asked for, as soon as a worker is free; its blocks are kept in the journal
        that is open here.
        """
        journal = find_journal()
        blocks = None if journal is None else (journal.items.absolute(), journal.candidate)
        order = TaskOrder(task, split, places, blocks)
        label = journal.items.stem if journal is not None else task.name
        self._crew.submit(order.key, order, label=f"{split} items of {label}")

    def measure(self, task: MeasureTask, split: Split, places: ItemPlaces | None = None) -> ItemMeasurement:
        """Wait for a measurement, announced or not.

        Raises what measuring raised, and :class:`EvaluationError` where it cost three workers.
        """
        self.announce(task, split, places)
        outcome = self._crew.take(TaskOrder(task, split, places, None).key)
        attempt = WorkerAttempt(outcome.worker, outcome.attempt)
        if outcome.error is not None:
            raise mark_attempt(outcome.error, attempt)
        measurement: ItemMeasurement = outcome.value
        return replace(measurement, by=attempt)


@contextmanager
def hire_workers(
    evaluator: MergeEvaluator, run: Path, space: SearchSpace, *, for_search: bool
) -> Iterator[MergeEvaluator]:
    """`evaluator` with the workers that its file asks for, which measure in its place until the block ends.

    Its own model then leaves memory. Lost workers are accounted for in the run folder. Without workers it is as it is.
    """
    site = evaluator.site
    if site is None:
        yield evaluator
        return

    with _open_shared_folder(evaluator, site, space) as shared:
        plan = EvaluatorPlan(
            config=evaluator.config,
            run=run.resolve(),
            settings=tuple(space.settings),
            for_search=for_search,
            threads=evaluator.threads,
            keeps_answers=keeps_answers(run),
            inputs=None if site.cluster is not None else evaluator.inputs,
            shared=shared,
        )
        place = Workplace(open_evaluator, plan, site.layout.build_environments(evaluator.threads))
        evaluator.model_evaluator.engine.drop_weights()
        progress.say(f"workers: {site.layout.describe()}")

        def note(lost: LostAttempt) -> None:
            note_lost_attempt(run, LostAttemptRecord(**vars(lost)))

        assert evaluator.config.evaluate is not None  # noqa: S101 - a run has it; for the type checker
        executor = site.open_executor(place)
        try:
            timeout_s = evaluator.config.evaluate.timeout_s
            crew = WorkerCrew(executor, place.workers, timeout_s=timeout_s, note=note)
            yield replace(evaluator, crew=MeasuringCrew(crew))
        finally:
            executor.close()


def _open_shared_folder(
    evaluator: MergeEvaluator, site: WorkerSite, space: SearchSpace
) -> AbstractContextManager[Path | None]:
    """The folder of vectors that several workers of this machine have in common; None where each prepares its own."""
    opening = plan_opening(evaluator.config, evaluator.merger.recipe, space.settings)
    if site.cluster is not None or site.layout.workers == 1 or not opening.prepares:
        return nullcontext()
    return share_vectors(count_prepared_bytes(evaluator.merger))
