"""`MeasureTask`: one measurement, told so that any process which has opened the same models can make it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aftermix.config import Split
from aftermix.evaluation.places import ItemPlaces
from aftermix.jobs.search.baselines import BaselineMerge
from aftermix.runs.trials import ItemMeasurement, Point, describe_point

if TYPE_CHECKING:
    from aftermix.jobs.evaluator import MergeEvaluator

MeasureHere = Callable[["MergeEvaluator", Split, ItemPlaces | None], ItemMeasurement]
"""Makes a measurement with the engine of this process; a function of a module, perhaps with arguments bound."""


@dataclass(frozen=True)
class MeasureTask:
    """One measurement, whichever process makes it."""

    name: str
    """Text that only equal tasks share."""
    make: MeasureHere

    @staticmethod
    def of_point(point: Point) -> MeasureTask:
        """The merge at `point`, under the file's own merge."""
        return MeasureTask(describe_point(point), partial(_measure_point, point))

    @staticmethod
    def of_baseline(baseline: BaselineMerge) -> MeasureTask:
        """A composition under a method of its own."""
        return MeasureTask(repr(baseline), partial(_measure_baseline, baseline))


@dataclass(frozen=True)
class TaskOrder:
    """A task as it is sent to a worker."""

    task: MeasureTask
    split: Split
    places: ItemPlaces | None
    blocks: tuple[Path, str] | None
    """File of the item scores beside which blocks are kept, and words on whose answers they are."""

    @property
    def key(self) -> Hashable:
        """The same for the same measurement, wherever its blocks are kept."""
        places = self.places and tuple((task, tuple(chosen)) for task, chosen in sorted(self.places.items()))
        return self.task.name, self.split, places


def _measure_point(point: Point, evaluator: MergeEvaluator, split: Split, places: ItemPlaces | None) -> ItemMeasurement:
    return evaluator.measure_point(point, split, places)


def _measure_baseline(
    baseline: BaselineMerge, evaluator: MergeEvaluator, split: Split, places: ItemPlaces | None
) -> ItemMeasurement:
    del places  # baselines are measured on whole splits
    return evaluator.measure_baseline(baseline, split)
