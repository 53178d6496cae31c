"""One living model, one task suite and vectors prepared once: what every measured merge of a search goes through."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch

from aftermix import progress
from aftermix.checkpoints.model_files import list_input_files
from aftermix.checkpoints.pool import ModelPool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config, EvaluateConfig, SearchConfig, Split
from aftermix.config.places import place_weights
from aftermix.errors import printable
from aftermix.evaluation.engines.vllm.engine import VllmEngine
from aftermix.evaluation.places import ItemPlaces
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.orders.engines import Engine, open_engine
from aftermix.jobs.orders.opened import (
    MergeOrder,
    OpenedMerges,
    OpeningPlan,
    plan_opening,
    prepare_opened_vectors,
)
from aftermix.jobs.orders.order import BaselineOrder, PointOrder
from aftermix.jobs.parallel.tasks import MeasureTask
from aftermix.jobs.search.baselines import BaselineMerge
from aftermix.jobs.search.space_from_config import refuse_unfit_ranges
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.merging.prepared_gpu import ResidentVectors, move_to_device
from aftermix.merging.recipe import MergeRecipe, Weights
from aftermix.runs.answers.requests import RequestTable
from aftermix.runs.input_records import SplitRecord, TaskSplitRecord
from aftermix.runs.trials import ItemMeasurement, Point, Settings
from aftermix.search.choosing.elimination import deal_rounds
from aftermix.search.space import SearchSpace
from aftermix.workers.opening import WorkerSite, find_site


@dataclass(frozen=True)
class ModelEvaluator:
    """An engine that holds the base's weights at first, and the tasks it is scored on."""

    engine: Engine
    suite: EvaluationSuite
    wants_answers: bool = False
    """True if measurements come with the answers that they are of, where these have any."""

    @staticmethod
    def open(
        pool: ModelPool,
        config: EvaluateConfig,
        suite: EvaluationSuite,
        *,
        keeps_answers: bool = False,
        opening: OpeningPlan | None = None,
    ) -> ModelEvaluator:
        """Load the frame's model, with the tokenizer that the result will have; an engine that runs in processes of its
        own opens there what `opening` says.

        The user is told what is to be known of the tasks.
        """
        for remark in suite.remarks:
            progress.warn(str(remark))
        tell_warnings(suite)
        return ModelEvaluator(open_engine(pool, config, suite, opening), suite, keeps_answers)

    @property
    def keeps_answers(self) -> bool:
        """True if measurements come with answers; a task that is scored whole has none."""
        return self.wants_answers and self.suite.keeps_answers

    def rehearse(self, config: EvaluateConfig, *, threads: int | None = None) -> int:
        """Score the first items with the weights that the model has, and settle the number of threads: returned.

        It is the file's; else `threads`, that of a run that goes on; else as the suite chooses.
        Raises :class:`EvaluationError` naming an item that cannot be answered or scored.
        """
        self.suite.rehearse(self.engine, config, threads)
        return self.engine.threads if isinstance(self.engine, VllmEngine) else torch.get_num_threads()

    def measure(
        self, order: MergeOrder, merges: OpenedMerges, split: Split, *, places: ItemPlaces | None = None
    ) -> ItemMeasurement:
        """Score the merge that `order` asks for: made of `merges`, or by an engine that makes merges where it runs."""
        if isinstance(self.engine, VllmEngine):
            return self._measure(partial(self.engine.exchange, pickle.dumps(order)), split, places)
        merged = order.stream(merges, self.engine.place)
        return self.evaluate(merged.tensors, split, unchanged=merged.unchanged, places=places)

    def evaluate(
        self,
        tensors: Iterable[tuple[str, torch.Tensor]],
        split: Split,
        *,
        unchanged: frozenset[str] = frozenset(),
        places: ItemPlaces | None = None,
    ) -> ItemMeasurement:
        """Put `tensors` into the model and score it; those named `unchanged` take the base's values.

        With `places` only the items there are scored.
        """
        return self._measure(partial(self.engine.load, tensors, unchanged=unchanged), split, places)

    def _measure(self, fill: Callable[[], None], split: Split, places: ItemPlaces | None) -> ItemMeasurement:
        started, lm = perf_counter(), self.engine.lm
        fill()
        loaded, before = perf_counter(), lm.computed_positions

        measured = self.suite.evaluate(self.engine.lm, split, keep=self.keeps_answers, places=places)
        tell_warnings(self.suite)
        seconds = {"combine": loaded - started, "evaluate": perf_counter() - loaded}
        return ItemMeasurement(measured.items, seconds, measured.answers, lm.computed_positions - before)

    def count_positions(self, split: Split, places: ItemPlaces | None = None) -> int:
        """Positions that a measurement on `split` computes, generated answers at their limit; runs no model."""
        return self.suite.count_positions(self.engine.lm, split, keeps_answers=self.keeps_answers, places=places)

    def count_finalist_positions(self, config: SearchConfig) -> int:
        """Positions that a finalist of a search takes on the select items, if it is not dropped; runs no model."""
        return count_finalist_positions(self.suite, self.engine.lm, config, keeps_answers=self.keeps_answers)


def count_finalist_positions(suite: EvaluationSuite, lm: Any, config: SearchConfig, *, keeps_answers: bool) -> int:
    """Positions on the select items: all at once, or round after round where the strategy is `response`."""
    if config.strategy != "response" or not keeps_answers:
        return suite.count_positions(lm, "select", keeps_answers=keeps_answers)
    requests = suite.list_split_requests("select", lm)
    return sum(
        suite.count_positions(lm, "select", keeps_answers=True, places=places)
        for places in deal_rounds(requests, seed=config.seed)
    )


def tell_warnings(suite: EvaluationSuite) -> None:
    """Tell the user what was warned of: each kind once, with its number."""
    for line in suite.take_warnings():
        progress.warn(printable(line))


class MeasuringWorkers(Protocol):
    """Other processes that have opened the same models and tasks."""

    def announce(self, task: MeasureTask, split: Split, places: ItemPlaces | None = None) -> None:
        """Begin a measurement that is soon asked for."""

    def measure(self, task: MeasureTask, split: Split, places: ItemPlaces | None = None) -> ItemMeasurement:
        """Wait for a measurement, announced or not."""


@dataclass(frozen=True)
class MergeEvaluator:
    """Measuring device of a search: its configuration, its merge and a living model, or workers that have such."""

    config: Config
    merger: Merger
    """The merge under the file's own settings."""
    prepared: PreparedVectors | ResidentVectors | None
    """None where searched settings decide what vectors keep: every trial then reads its inputs anew."""
    model_evaluator: ModelEvaluator
    threads: int
    """CPU threads of the model."""
    prepare_s: float
    inputs: InputStamps
    """Of the models as they were opened: one that changes ends the run, whether or not it would be read again."""
    site: WorkerSite | None = None
    """Machine or cluster on which the file has measurements made; None where this process makes them."""
    crew: MeasuringWorkers | None = None
    """The workers there, once they are hired."""

    @staticmethod
    def open(
        config: Config,
        pool: ModelPool,
        recipe: MergeRecipe,
        *,
        space: SearchSpace,
        suite: EvaluationSuite,
        threads: int | None = None,
        keeps_answers: bool = True,
    ) -> MergeEvaluator:
        """Prepare the vectors, unless `space` has settings that every trial would have to prepare them for, load the
        model, and rehearse with the base's weights (`threads` as in :meth:`ModelEvaluator.rehearse`).

        Where the file asks for workers, these prepare the vectors, and CPU threads are shared out among them. Raises
        :class:`AftermixError` where they cannot be had.
        """
        assert config.evaluate is not None  # noqa: S101 - a search requires it; for the type checker
        started = perf_counter()
        site = find_site(config.evaluate)
        inputs = InputStamps.take(list_input_files(pool))
        merger = open_merger(config, pool, recipe)
        refuse_unfit_ranges(config, merger)
        # Workers, and an engine that runs in processes of its own, prepare the vectors there.
        opening = plan_opening(config, recipe, space.settings)
        here = opening.prepares and site is None and config.evaluate.engine == "hf"
        prepared = prepare_vectors(merger) if here else None

        model_evaluator = ModelEvaluator.open(
            pool, config.evaluate, suite, keeps_answers=keeps_answers, opening=opening
        )
        if site is not None and threads is None:
            torch.set_num_threads(site.layout.threads)
        threads = model_evaluator.rehearse(config.evaluate, threads=threads)
        placed = move_to_device(prepared, model_evaluator.engine.lm.device) if prepared is not None else None
        seconds = perf_counter() - started
        return MergeEvaluator(config, merger, placed, model_evaluator, threads, seconds, inputs, site)

    @staticmethod
    def open_in_worker(
        config: Config,
        pool: ModelPool,
        recipe: MergeRecipe,
        *,
        settings: Collection[str],
        suite: EvaluationSuite,
        threads: int,
        keeps_answers: bool,
        inputs: InputStamps | None,
        shared: Path | None = None,
    ) -> MergeEvaluator:
        """The same in a worker of a run that has rehearsed, and has taken the stamps of its `inputs`.

        Prepared vectors are in the folder `shared`, if the worker shares them with others.
        """
        assert config.evaluate is not None  # noqa: S101 - a search requires it; for the type checker
        started = perf_counter()
        inputs = inputs or InputStamps.take(list_input_files(pool))
        merger = open_merger(config, pool, recipe)
        opening = replace(plan_opening(config, recipe, settings), shared=shared)
        here = opening.prepares and config.evaluate.engine == "hf"
        prepared = prepare_opened_vectors(merger, opening) if here else None

        model_evaluator = ModelEvaluator.open(
            pool, config.evaluate, suite, keeps_answers=keeps_answers, opening=opening
        )
        torch.set_num_threads(threads)
        placed = move_to_device(prepared, model_evaluator.engine.lm.device) if prepared is not None else None
        return MergeEvaluator(config, merger, placed, model_evaluator, threads, perf_counter() - started, inputs)

    def tabulate_requests(self) -> RequestTable | None:
        """The requests of a new run, whose answers it keeps; None where it can keep none."""
        return self.model_evaluator.suite.tabulate_requests(self.model_evaluator.engine.lm)

    @property
    def tasks(self) -> list[str]:
        """Evaluated tasks, in the file's order."""
        return list(self.model_evaluator.suite.tasks)

    def evaluate(self, point: Point, split: Split, places: ItemPlaces | None = None) -> ItemMeasurement:
        """Score the merge at `point` on one split, or on its items at `places`. Raises as :meth:`measure`."""
        return self.measure(MeasureTask.of_point(point), split, places)

    def evaluate_baseline(self, baseline: BaselineMerge, split: Split) -> ItemMeasurement:
        """Score a composition under its own method, every tensor given: it may differ where the search does not.

        Raises as :meth:`measure`.
        """
        return self.measure(MeasureTask.of_baseline(baseline), split)

    def measure(self, task: MeasureTask, split: Split, places: ItemPlaces | None = None) -> ItemMeasurement:
        """Make a measurement here, or have it made by a worker.

        Raises :class:`InputFaultError` when an input has changed.
        """
        if self.crew is not None:
            return self.crew.measure(task, split, places)
        with self.inputs.watch():
            return task.make(self, split, places)

    def announce(self, task: MeasureTask, split: Split, places: ItemPlaces | None = None) -> None:
        """Have workers, if there are any, begin a measurement that is soon asked for, and whose blocks are kept in the
        journal that is open around the call.
        """
        if self.crew is not None:
            self.crew.announce(task, split, places)

    def announce_point(self, point: Point, split: Split, places: ItemPlaces | None = None) -> None:
        """As :meth:`announce`, of the merge at `point`."""
        self.announce(MeasureTask.of_point(point), split, places)

    def measure_point(self, point: Point, split: Split, places: ItemPlaces | None) -> ItemMeasurement:
        """Score the merge at `point` with the model of this process."""
        return self.model_evaluator.measure(PointOrder(point), self.merges, split, places=places)

    def measure_baseline(self, baseline: BaselineMerge, split: Split) -> ItemMeasurement:
        """Score a composition with the model of this process."""
        return self.model_evaluator.measure(BaselineOrder(baseline), self.merges, split)

    @property
    def merges(self) -> OpenedMerges:
        """The merge of the file with its settings, as this process has opened it."""
        return OpenedMerges(self.config, self.merger, self.prepared)

    def place_weights(self, point: Point) -> Weights:
        """The weight of each vector at `point`: a number, or rules by the place of a tensor."""
        return place_weights(self.config.vectors, point.weights)

    def build_merger(self, settings: Settings) -> Merger:
        """As :meth:`OpenedMerges.build_merger`."""
        return self.merges.build_merger(settings)

    def build_config(self, settings: Settings) -> Config:
        """As :meth:`OpenedMerges.build_config`."""
        return self.merges.build_config(settings)


def build_split_record(suite: EvaluationSuite) -> SplitRecord:
    """The items of each split by task, as `items/split.json` holds them."""
    tasks = {
        name: TaskSplitRecord(
            search=tuple(items.search),
            select=tuple(items.select),
            test=tuple(items.test),
            overlap=items.overlap,
            note=items.note,
            **({"grouped": items.grouped} if items.grouped else {}),
        )
        for name, items in suite.tasks.items()
    }
    return SplitRecord(tasks)
