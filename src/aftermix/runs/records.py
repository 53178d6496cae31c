"""Records of a run's files: `best.json` and what stands in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Setting = bool | int | Finite | str | tuple[str, ...]
Interval = tuple[Finite, Finite]


class RunRecord(BaseModel):
    """A part of a run's file; keys that this version does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


R = TypeVar("R", bound=RunRecord)


def _wrap_number(value: Any) -> Any:
    """A single objective is written as a number, several as a list."""
    return (value,) if isinstance(value, int | float) else value


class TrialRecord(RunRecord):
    """One line of `trials.jsonl`."""

    number: int
    state: Literal["complete", "failed", "pruned"]
    weights: dict[str, Finite]
    settings: dict[str, Setting] = {}
    scores: dict[str, Finite] | None = None
    objective: Annotated[tuple[Finite, ...] | None, BeforeValidator(_wrap_number)] = None
    feasible: bool | None = True
    seconds: dict[str, Finite] | None = None
    error: str | None = None
    origin: str | None = None

    @property
    def imported(self) -> bool:
        """True if it was re-scored from another run (`RUN#n`) and cost nothing here."""
        return self.origin is not None and "#" in self.origin


class TaskScore(RunRecord):
    """Mean score of one task over `items` items, with its interval."""

    score: Finite
    interval: Interval | None = None
    items: int | None = None


class UtilityScore(RunRecord):
    """A mixture's utility with its interval; null where an expression has no value."""

    value: Finite | None = None
    interval: Interval | None = None


class ScoresRecord(RunRecord):
    """One measurement on one split: a value and an interval per objective, and every task's score."""

    objective: tuple[Finite, ...] = Field(min_length=1)
    interval: tuple[Interval | None, ...] | None = None
    tasks: dict[str, TaskScore] = {}
    utility: UtilityScore | None = None
    """Of a mixture's run: what it is judged by, its objective being a mean of raw scores."""

    def interval_of(self, index: int) -> Interval | None:
        """The interval of the objective at `index`, if it was computed."""
        return self.interval[index] if self.interval and index < len(self.interval) else None


class SearchWinner(RunRecord):
    """The trial that won, or null for a winner that is no single trial."""

    trial: int | None = None
    method: str = ""
    options: dict[str, Any] = {}
    exclude: tuple[str, ...] | None = None


class VectorRecord(RunRecord):
    """A distribution vector, as `best.json` tells it."""

    model: str = ""
    role: str = "expert"
    tokens: float | None = None
    range: Interval | None = None


class ObjectiveRecord(RunRecord):
    """A resolved objective: weights of its tasks (adding up to 1) and floors."""

    name: str | None = None
    tasks: dict[str, Finite] = {}
    floors: dict[str, Finite] = {}


class CandidateRecord(RunRecord):
    """One of the best distinct trials, measured again on the select items."""

    trial: int | None = None
    weights: dict[str, Finite]
    settings: dict[str, Setting] = {}
    search: ScoresRecord | None = None
    select: ScoresRecord | None = None


class BaselineRecord(RunRecord):
    """A model that costs no search; `difference` is winner minus baseline over the same test items."""

    name: str
    kind: str = ""
    method: str | None = None
    density: Finite | None = None
    weights: dict[str, Finite] | None = None
    test: ScoresRecord
    difference: ScoresRecord | None = None


class ScanPoint(RunRecord):
    weight: Finite
    select: Finite


class ScanRecord(RunRecord):
    """The weight of one vector alone against the select score."""

    vector: str
    points: tuple[ScanPoint, ...]


class TaskItemCounts(RunRecord):
    """Number of items of a task in each split."""

    search: int
    select: int
    test: int
    note: str | None = None


class ItemsRecord(RunRecord):
    """Split of the items of all tasks."""

    scheme: str = "disjoint"
    overlap: bool = False
    tasks: dict[str, TaskItemCounts] = {}


class StageSeconds(RunRecord):
    """Wall time of each stage of the job."""

    prepare: Finite | None = None
    search: dict[str, Finite] = {}
    select: Finite | None = None
    test: Finite | None = None


class BestRecord(RunRecord):
    """`best.json`: the result of a finished search."""

    winner: SearchWinner
    weights: dict[str, Finite]
    settings: dict[str, Setting] = {}
    ratios: dict[str, Finite] | None = None
    ratios_note: str | None = None
    vectors: dict[str, VectorRecord] = {}
    objective: tuple[ObjectiveRecord, ...] = ()
    search: ScoresRecord | None = None
    select: ScoresRecord | None = None
    test: ScoresRecord
    floors_met: bool | None = None
    candidates: tuple[CandidateRecord, ...] = ()
    front: tuple[int, ...] | None = None
    baselines: tuple[BaselineRecord, ...] = ()
    scan: ScanRecord | None = None
    items: ItemsRecord | None = None
    seconds: StageSeconds | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
