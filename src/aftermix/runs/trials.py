"""Records of a search: one for each ended trial, and the item scores of one measurement."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, JsonValue, PlainSerializer, TypeAdapter, ValidationError

from aftermix.config import Split
from aftermix.errors import SearchError, join_place
from aftermix.runs.answers.candidate import KeptAnswers
from aftermix.runs.item_scores import (
    OptionalScores,
    ScoresRecords,
    StoredScores,
    WholeScore,
    average,
    count_values,
    dump_scores,
    parse_scores,
    replace_scores,
)
from aftermix.runs.json_record import Finite, describe_fault

T = TypeVar("T")
State = Literal["complete", "failed", "pruned"]
Weights = dict[str, Finite]
Setting = bool | int | float | str | tuple[str, ...]
Settings = dict[str, Setting]
"""By name of the method's option, or `option.vector` where each vector has its own."""
ItemScores = dict[str, list[float | None]]
"""Task -> score of each item, in the order of the split's item ids; None where an item has none."""


def quote_setting(name: str) -> str:
    """A setting's name for people: that of one vector with the vector's name as in any place of the file.

    >>> quote_setting("density"), quote_setting("density.ja"), quote_setting("density.my.py")
    ('density', 'density.ja', 'density."my.py"')
    """
    option, dot, vector = name.partition(".")
    return join_place(option, vector) if dot else option


def _parse_objective(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else tuple(value) if isinstance(value, list) else value


def _dump_objective(values: tuple[float, ...] | None) -> float | list[float] | None:
    return None if values is None else values[0] if len(values) == 1 else list(values)


ObjectiveValues = Annotated[tuple[Finite, ...], BeforeValidator(_parse_objective), PlainSerializer(_dump_objective)]
"""One value per objective; the journal shows a single one as a bare number."""


@dataclass(frozen=True)
class Point:
    """A place that a search looks at: merge weights, and the settings of the merge that are searched beside them."""

    weights: Weights
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Suggestion:
    """A point to try, and where it comes from: `prior`, `startup` (random), `sampler`, or a design."""

    weights: Weights
    origin: str
    settings: Settings = field(default_factory=dict)
    strategy: str | None = None
    """Procedure that chose the point: `tpe`, `random`; of a mixture `design` or `surrogate`."""

    @property
    def point(self) -> Point:
        """Weights and settings."""
        return Point(self.weights, self.settings)


@dataclass(frozen=True, kw_only=True)
class ProposedPoint:
    """A point of a batch, as it stands in `proposals.jsonl` before any of the batch is measured."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False, extra="forbid")

    number: int
    """Of the trial that it becomes."""
    batch: int
    """Index of the batch in the run."""
    size: int
    """Points of the batch: one that has fewer was not written to its end."""
    strategy: str | None
    origin: str
    weights: Weights
    settings: Settings = field(default_factory=dict)

    @property
    def point(self) -> Point:
        """Weights and settings."""
        return Point(self.weights, self.settings)


def names_earlier_run(origin: str | None) -> bool:
    """True of `RUN#n`, the origin of a trial whose scores were measured by another run."""
    return "#" in (origin or "")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the search that has ended."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False, extra="forbid")

    number: int
    state: State
    weights: Weights
    settings: Settings = field(default_factory=dict)
    """Searched settings as they held in the merge; empty where only weights are searched."""
    scores: dict[str, Finite] = field(default_factory=dict)
    """Task -> mean score over the search items."""
    objective: ObjectiveValues | None = None
    """One value per objective; None unless the trial is complete."""
    feasible: bool = False
    """True if every floor is met."""
    seconds: dict[str, Finite] = field(default_factory=dict)
    """Wall seconds by phase: combine, evaluate, overhead."""
    error: str | None = None
    origin: str | None = None
    """`prior`, `startup`, `sampler`, `random`, or `RUN#n` for trial n of another run."""
    strategy: str | None = None
    """Procedure that chose the point. This key and the next are absent in imported trials and in runs of old."""
    batch: int | None = None
    """Index of the batch in which the point was proposed."""
    worker: int | None = None
    """Number of the process that measured it, from 0."""
    attempt: int | None = None
    """Number of the try, from 1."""
    tokens: int | None = None
    """Positions that the model computed to score it, padding included; 0 where an earlier trial's scores were taken."""

    @property
    def point(self) -> Point:
        """The place that the trial looked at."""
        return Point(self.weights, self.settings)

    @property
    def is_complete(self) -> bool:
        """True if the trial has scores that count."""
        return self.state == "complete"

    @property
    def is_imported(self) -> bool:
        """True if the scores were measured by another run."""
        return names_earlier_run(self.origin)

    @property
    def values(self) -> tuple[float, ...]:
        """The objective values of a complete trial."""
        if self.objective is None:
            raise ValueError(f"trial {self.number} is {self.state} and has no objective")
        return self.objective


@dataclass(frozen=True)
class WorkerAttempt:
    """The try that a measurement ended with: who made it, and which one it was."""

    worker: int = 0
    """Number of the process, from 0."""
    attempt: int = 1
    """Number of the try, from 1."""


@dataclass(frozen=True)
class ItemMeasurement:
    """Result of one evaluation of a merge: per-item scores by task, and wall seconds by phase."""

    items: Mapping[str, OptionalScores]
    seconds: Mapping[str, float] = field(default_factory=dict)
    answers: KeptAnswers | None = None
    """Answers that the scores are of, request by request; None in runs that do not keep them."""
    tokens: int | None = None
    """Positions that the model computed for it, padding included; None where nobody counted."""
    by: WorkerAttempt = WorkerAttempt()


E = TypeVar("E", bound=Exception)
Announce = Callable[[Point, Split], object]
"""Tells that a merge is soon measured on a split: whoever measures several at a time begins."""
Measure = Callable[[Point, Split], ItemMeasurement]
"""Scores the merge at this point on one split of the items."""

_TRIAL: TypeAdapter[Trial] = TypeAdapter(Trial)
_PROPOSAL: TypeAdapter[ProposedPoint] = TypeAdapter(ProposedPoint)
_LATER_KEYS = ("strategy", "batch", "worker", "attempt", "tokens")
"""Keys of a trial that runs of old lack: absent where there is no value, so that a journal stays as it began."""
_ITEMS: TypeAdapter[dict[str, list[Finite | None] | ScoresRecords]] = TypeAdapter(
    dict[str, StoredScores], config=ConfigDict(allow_inf_nan=False)
)


def mark_attempt(error: E, by: WorkerAttempt) -> E:
    """`error`, which a measurement ended with, with the try that it was."""
    error.__dict__["measured_by"] = by
    return error


def read_attempt(error: Exception, *, otherwise: WorkerAttempt) -> WorkerAttempt:
    """The try that ended with `error`, where it says so."""
    by: WorkerAttempt = error.__dict__.get("measured_by", otherwise)
    return by


def describe_point(point: Point) -> str:
    """Weights and settings in one line, the same for the same point.

    >>> describe_point(Point({"b": 0.5, "a": 1.0}))
    '{"a": 1.0, "b": 0.5}'
    """
    return json.dumps({**point.weights, **point.settings}, sort_keys=True, ensure_ascii=False)


def dump_trial(trial: Trial) -> dict[str, JsonValue]:
    """The journal's object for `trial`."""
    value: dict[str, JsonValue] = _TRIAL.dump_python(trial)
    return {key: held for key, held in value.items() if held is not None or key not in _LATER_KEYS}


def parse_trial(line: bytes) -> Trial:
    """The trial in one line of a journal. Raises `ValueError` saying what is wrong with it."""
    trial = _validate_json(_TRIAL, line)
    if trial.is_complete and trial.objective is None:
        raise ValueError("a complete trial without an objective")
    return trial


def dump_proposal(point: ProposedPoint) -> dict[str, JsonValue]:
    """The object of one line of `proposals.jsonl`."""
    value: dict[str, JsonValue] = _PROPOSAL.dump_python(point)
    return value


def parse_proposal(line: bytes) -> ProposedPoint:
    """The point in one line of `proposals.jsonl`. Raises `ValueError` saying what is wrong with it."""
    return _validate_json(_PROPOSAL, line)


def dump_items(items: Mapping[str, OptionalScores]) -> dict[str, JsonValue]:
    """The object of a file of item scores: a list for each task, null where an item has no value."""
    value: dict[str, JsonValue] = _ITEMS.dump_python({task: dump_scores(scores) for task, scores in items.items()})
    return value


def parse_items(content: bytes) -> ItemScores:
    """The item scores in a file's content. Raises `ValueError` saying what is wrong with it."""
    return {task: parse_scores(stored) for task, stored in _validate_json(_ITEMS, content).items()}


def _validate_json(adapter: TypeAdapter[T], content: bytes) -> T:
    try:
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(f"{place}{describe_fault(first)}") from error


def average_scores(items: Mapping[str, OptionalScores]) -> dict[str, float]:
    """Task -> its score, the mean over its items that have a value.

    >>> average_scores({"gsm8k": [1.0, 0.0, 1.0, 1.0], "hard": [None, 0.5]})
    {'gsm8k': 0.75, 'hard': 0.5}
    """
    return {task: average(scores) for task, scores in items.items()}


def check_items(items: Mapping[str, OptionalScores], *, tasks: Iterable[str], where: str) -> ItemScores:
    """The scores of exactly `tasks` as plain floats; `where` names the measurement in errors.

    Raises :class:`SearchError` for a task that is missing, has no item with a score, or has one that is NaN or
    infinite.
    """
    checked: ItemScores = {}
    for task in tasks:
        scores = items.get(task, ())
        plain = [None if score is None else float(score) for score in scores]
        if not count_values(plain):
            raise SearchError(where, f"expected item scores of task '{task}', found none", "Check the task's items.")

        bad = next((i for i, score in enumerate(plain) if score is not None and not math.isfinite(score)), None)
        if bad is not None:
            found = f"expected finite scores of task '{task}', found {plain[bad]} at item {bad}"
            raise SearchError(where, found, "Check the task's metric and the merged model's outputs.")
        checked[task] = scores if isinstance(scores, WholeScore) else replace_scores(scores, plain)
    return checked
