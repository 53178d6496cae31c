"""Item scores of rivals, each measured once and kept in the run, with the time that measuring took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean

from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Split
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.parallel.tasks import MeasureTask
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.runs.item_scores import GroupScores, OptionalScores, WholeScore, average, complete_scores
from aftermix.runs.json_record import read_record
from aftermix.runs.records import COMPARED_SECONDS_FILE, ComparedSecondsRecord
from aftermix.runs.trials import ItemMeasurement, ItemScores


@dataclass(frozen=True)
class RivalModelScores:
    """A model of a row: what its scores are of, and the measurement of it with the instruction vector at a weight."""

    identity: object
    """Values of JSON: files by hash, or merge weights; rows of one identity share their scores."""
    build_task: Callable[[float], MeasureTask]
    evaluator: MergeEvaluator
    watched: InputStamps = field(default_factory=lambda: InputStamps({}))
    """Files of the model, as they were when it was identified."""

    def measure(self, weight: float, split: Split) -> ItemMeasurement:
        """Measure it with the instruction vector at `weight`."""
        with self.watched.watch():
            return self.evaluator.measure(self.build_task(weight), split)

    def announce(self, weight: float, split: Split) -> None:
        """Tell that this is soon measured."""
        self.evaluator.announce(self.build_task(weight), split)


@dataclass(frozen=True)
class RivalScoreKeeper:
    """Keeper of the scores of a run's rivals."""

    run: Path
    cache: ScoreCache

    def measure(self, model: RivalModelScores, instruction: str | None, weight: float, split: Split) -> ItemScores:
        """Item scores on `split`, measured now or kept from before."""
        key = _build_key(model, instruction, weight)
        return self.cache.scores(key, split, partial(self._measure_timed, model, weight, key))

    def announce(self, model: RivalModelScores, instruction: str | None, weight: float, split: Split) -> None:
        """Tell that :meth:`measure` is soon asked for."""
        self.cache.announce_scores(_build_key(model, instruction, weight), split, partial(model.announce, weight))

    def read_seconds(self, model: RivalModelScores, instruction: str | None, weight: float, split: Split) -> float:
        """Wall time that measuring took."""
        return self._read().get(_build_key(model, instruction, weight), {}).get(split, 0.0)

    def _measure_timed(self, model: RivalModelScores, weight: float, key: str, split: Split) -> ItemMeasurement:
        measurement = model.measure(weight, split)
        known = self._read()
        known[key] = {**known.get(key, {}), split: round(sum(measurement.seconds.values()), 3)}
        ComparedSecondsRecord(known).write(self.run / COMPARED_SECONDS_FILE)
        return measurement

    def _read(self) -> dict[str, dict[Split, float]]:
        record = read_record(self.run / COMPARED_SECONDS_FILE, ComparedSecondsRecord)
        return dict(record.root) if record is not None else {}


def _build_key(model: RivalModelScores, instruction: str | None, weight: float) -> str:
    """A name for file names: other files, weights or additions are another name."""
    text = json.dumps([model.identity, instruction, weight if instruction else None], sort_keys=True)
    return f"compared {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def average_items(measured: Sequence[ItemScores]) -> ItemScores:
    """The mean score of each item over models that were measured on the same items.

    >>> average_items([{"t": [1.0, 0.0]}, {"t": [0.0, 0.0]}])
    {'t': [0.5, 0.0]}
    """
    if len(measured) == 1:
        return measured[0]
    return {task: _average_task([items[task] for items in measured]) for task in measured[0]}


def _average_task(scores: Sequence[OptionalScores]) -> list[float | None]:
    first = scores[0]
    if isinstance(first, WholeScore):
        return WholeScore(fmean(average(each) for each in scores))

    # An item without a value in one model alone: numbers for all items that average and vary alike.
    missing = [tuple(score is None for score in each) for each in scores]
    if len(set(missing)) > 1:
        return [fmean(item) for item in zip(*map(complete_scores, scores), strict=True)]

    means = [
        None if None in item else fmean(score for score in item if score is not None)
        for item in zip(*scores, strict=True)
    ]
    return GroupScores(means, first.leaves) if isinstance(first, GroupScores) else means
