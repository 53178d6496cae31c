"""The winner of a search or a mixture beside models of any origin: `compared` in `best.json`.

Each row is a finished model, a merge at given weights, or trainings on the union of the experts' data; the instruction
vector may be added to it, at a weight that is given or tuned on select items. All are scored on the winner's own test
items, and their differences from it are paired by item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch

from aftermix import progress
from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.config import Config, Split
from aftermix.evaluation.places import ItemPlaces
from aftermix.jobs.compare.rival_models import RivalModel, RivalOrder
from aftermix.jobs.compare.rival_plans import RivalPlan, plan_rivals, relabel_problems
from aftermix.jobs.compare.rival_scores import RivalModelScores, RivalScoreKeeper, average_items
from aftermix.jobs.compare.rival_training import read_recorded_tokens
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.parallel.tasks import MeasureTask
from aftermix.jobs.search.baselines import BaselineMerge, list_single_weights
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.runs.records import (
    AddedInstructionRecord,
    ComparedCostRecord,
    ComparedRecord,
    ComparedTrainingRecord,
    ScoresRecord,
)
from aftermix.runs.trials import ItemMeasurement, ItemScores
from aftermix.runs.verification_records import TrainingRecord

NO_RATIOS = "not trained: no data ratios follow from the winner's weights"


class ContestJudge(Protocol):
    """Measure by which the winner was chosen."""

    def summarise_items(self, items: ItemScores) -> ScoresRecord:
        """Scores with their intervals."""

    def compare_items(self, ours: ItemScores, theirs: ItemScores) -> ScoresRecord:
        """Ours minus theirs, paired by item."""

    def measure_worth(self, items: ItemScores) -> float:
        """Number that is made largest; NaN where there is none."""


@dataclass(frozen=True)
class RivalContest:
    """The rows of a run whose winner is measured."""

    evaluator: MergeEvaluator
    run: Path
    judge: ContestJudge
    winner: ItemScores
    """On test items."""
    ratios: Mapping[str, float] | None
    """Data ratios that the winner stands for; None where it stands for none."""

    @property
    def config(self) -> Config:
        """Configuration of the run."""
        return self.evaluator.config

    @property
    def keeper(self) -> RivalScoreKeeper:
        """Scores that are kept in the run."""
        return RivalScoreKeeper(self.run, ScoreCache(self.run, self.evaluator.tasks))

    def build_records(self, *, log: Callable[[str], None] = progress.say) -> tuple[ComparedRecord, ...]:
        """Train and measure what is not there yet, and tell every row, in the file's order.

        Raises :class:`AftermixError`, as opening a model and a training do.
        """
        plans = plan_rivals(self.config)
        trained = {plan.name: self._train(plan, log) for plan in plans}
        torch.set_num_threads(self.evaluator.threads)  # a training may have taken others
        measured = [plan for plan in plans if plan.training is None or trained[plan.name]]
        models = {plan.name: self._list_models(plan, trained[plan.name]) for plan in measured}
        for plan in plans:
            self._announce(plan, models.get(plan.name, ()))
        shown = progress.bar(plans, label="Compared", unit="model")
        return tuple(self._build_record(plan, trained[plan.name], models.get(plan.name)) for plan in shown)

    def _announce(self, plan: RivalPlan, models: Sequence[RivalModelScores]) -> None:
        """Tell of the measurements of a row that are known beforehand."""
        tried = list_tuned_weights(self.config, plan.instruction) if plan.instruction and plan.is_tuned else []
        known = 0.0 if plan.instruction is None or plan.is_tuned else float(plan.config.instruction)
        for model in models:
            for weight in tried:
                self.keeper.announce(model, plan.instruction, weight, "select")
            if not tried:
                self.keeper.announce(model, plan.instruction, known, "test")

    def _train(self, plan: RivalPlan, log: Callable[[str], None]) -> dict[int, Path]:
        """Folder by seed of the models of a row; none of a row that trains nothing."""
        shares = plan.training.settle_shares(self.ratios) if plan.training is not None else None
        if plan.training is None or shares is None:
            return {}
        with relabel_problems(plan.place):
            return plan.training.run(shares, self.run, log=log)

    def _build_record(
        self, plan: RivalPlan, folders: Mapping[int, Path], models: Sequence[RivalModelScores] | None
    ) -> ComparedRecord:
        if models is None:
            nothing = ComparedCostRecord(tokens_trained=0, tokens_evaluated=0, seconds=0.0)
            return ComparedRecord(
                name=plan.name, ratios=None, instruction=None, note=NO_RATIOS, test=None, difference=None, cost=nothing
            )

        weight, tried = self._settle_weight(plan, models)
        tests = [self.keeper.measure(model, plan.instruction, weight, "test") for model in models]
        test = average_items(tests)
        record = ComparedRecord(
            name=plan.name,
            instruction=None
            if plan.instruction is None
            else AddedInstructionRecord(vector=plan.instruction, weight=weight, tuned=plan.is_tuned),
            note=_describe_seeds(folders),
            test=self.judge.summarise_items(test),
            difference=self.judge.compare_items(self.winner, test),
            cost=self._count_cost(plan, models, folders, weight=weight, tried=tried),
        )
        return self._attach_origin(record, plan, folders, tests)

    def _list_models(self, plan: RivalPlan, folders: Mapping[int, Path]) -> list[RivalModelScores]:
        """Models of a row: one, or one for each training."""
        if plan.weights is not None:
            build = partial(self._build_merge_task, plan)
            return [RivalModelScores({"weights": dict(plan.weights)}, build, self.evaluator)]
        named = [str(folder) for folder in folders.values()] or [str(plan.config.model)]
        models = []
        for name in named:
            with relabel_problems(plan.place):
                model = RivalModel.open(self.config, self.evaluator.merger.pool, name)
            build = partial(_build_model_task, name, plan.instruction)
            models.append(RivalModelScores({"files": model.identify()}, build, self.evaluator, model.take_stamps()))
        return models

    def _build_merge_task(self, plan: RivalPlan, weight: float) -> MeasureTask:
        """A merge under the file's own method, the instruction vector at `weight` where the row says so."""
        weights = dict(plan.weights or {}) | ({plan.instruction: weight} if plan.instruction is not None else {})
        method = self.config.merge.method or "a pair"
        return MeasureTask.of_baseline(BaselineMerge(plan.name, "compared", weights, method, as_the_file=True))

    def _settle_weight(self, plan: RivalPlan, models: Sequence[RivalModelScores]) -> tuple[float, list[float]]:
        """The weight of the instruction vector, and those tried on select items; ties go to the lowest."""
        if plan.instruction is None or not plan.is_tuned:
            return (0.0 if plan.instruction is None else float(plan.config.instruction)), []
        tried = list_tuned_weights(self.config, plan.instruction)
        worth = {weight: self._measure_worth(plan.instruction, models, weight) for weight in tried}
        return max(tried, key=lambda weight: worth[weight]), tried

    def _measure_worth(self, instruction: str, models: Sequence[RivalModelScores], weight: float) -> float:
        worth = fmean(
            self.judge.measure_worth(self.keeper.measure(model, instruction, weight, "select")) for model in models
        )
        return worth if math.isfinite(worth) else -math.inf

    def _attach_origin(
        self, record: ComparedRecord, plan: RivalPlan, folders: Mapping[int, Path], tests: Sequence[ItemScores]
    ) -> ComparedRecord:
        """`record` with the fields that say where its model comes from; keys of other origins stay absent."""
        if plan.weights is not None:
            return record.model_copy(update={"weights": dict(plan.weights)})
        if plan.training is None:
            return record.model_copy(update={"model": plan.config.model})
        trained = tuple(
            self._describe_training(seed, folder, items)
            for (seed, folder), items in zip(folders.items(), tests, strict=True)
        )
        ratios = dict(plan.training.settle_shares(self.ratios) or {})
        return record.model_copy(update={"ratios": ratios, "trained": trained})

    def _describe_training(self, seed: int, folder: Path, items: ItemScores) -> ComparedTrainingRecord:
        record = TrainingRecord.read(folder / TRAINING_FILE)
        return ComparedTrainingRecord(
            seed=seed,
            folder=folder.relative_to(self.run).as_posix(),
            tokens=record.tokens,
            loss=record.loss.final,
            test=self.judge.summarise_items(items),
        )

    def _count_cost(
        self,
        plan: RivalPlan,
        models: Sequence[RivalModelScores],
        folders: Mapping[int, Path],
        *,
        weight: float,
        tried: Sequence[float],
    ) -> ComparedCostRecord:
        positions = self.evaluator.model_evaluator.count_positions
        evaluated = positions("test") + (len(tried) * positions("select") if tried else 0)
        measured: list[tuple[float, Split]] = [(weight, "test"), *((each, "select") for each in tried)]
        seconds = sum(
            self.keeper.read_seconds(model, plan.instruction, each, split)
            for model in models
            for each, split in measured
        )

        records = [TrainingRecord.read(folder / TRAINING_FILE) for folder in folders.values()]
        tokens = read_recorded_tokens(Path(plan.config.model)) if plan.config.model is not None else 0
        return ComparedCostRecord(
            tokens_trained=sum(record.tokens for record in records) if records else tokens,
            tokens_evaluated=len(models) * evaluated,
            seconds=round(seconds + sum(record.seconds or 0.0 for record in records), 3),
        )


def compare_rivals(
    evaluator: MergeEvaluator,
    run: Path,
    judge: ContestJudge,
    winner: ItemScores,
    ratios: Mapping[str, float] | None,
) -> dict[str, tuple[ComparedRecord, ...]]:
    """`compared` of `best.json`, for its record to be updated with; nothing where the file compares nothing.

    `winner` is measured on the test items of the run in `run`, and stands for the data `ratios`.
    """
    if not evaluator.config.compare:
        return {}
    return {"compared": RivalContest(evaluator, run, judge, winner, ratios).build_records()}


def _build_model_task(name: str, instruction: str | None, weight: float) -> MeasureTask:
    """A finished model, the instruction vector at `weight` where the row says so."""
    return MeasureTask(f"model {name} {instruction} {weight!r}", partial(_measure_model, name, instruction, weight))


def _measure_model(
    name: str,
    instruction: str | None,
    weight: float,
    evaluator: MergeEvaluator,
    split: Split,
    places: ItemPlaces | None,
) -> ItemMeasurement:
    order = RivalOrder(name, instruction, weight)
    return evaluator.model_evaluator.measure(order, evaluator.merges, split, places=places)


def list_tuned_weights(config: Config, instruction: str) -> list[float]:
    """Weights at which the instruction vector is tried: those of the scan that baselines get."""
    return list_single_weights(config.vectors[instruction].bounds[1])


def _describe_seeds(folders: Mapping[int, Path]) -> str | None:
    if not folders:
        return None
    return "one training" if len(folders) == 1 else f"mean of {len(folders)} trainings"
