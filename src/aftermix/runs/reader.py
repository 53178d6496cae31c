"""Read a run folder: its configuration, trials, result and lock, checked before anything is drawn.

Unknown keys are tolerated, since a run may come from a newer version; a missing or damaged value is refused with the
file and the place in it. Of the run's files only `config.yaml` must exist, so that an unfinished run can be shown.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aftermix.config import Config, load_config
from aftermix.errors import AftermixError

Finite = Annotated[float, Field(allow_inf_nan=False)]
Setting = bool | int | Finite | str | tuple[str, ...]
Interval = tuple[Finite, Finite]


class Record(BaseModel):
    """A part of a run's file; keys that this version does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


R = TypeVar("R", bound=Record)


def _as_tuple(value: Any) -> Any:
    """A single objective is written as a number, several as a list."""
    return (value,) if isinstance(value, int | float) else value


class Trial(Record):
    """One line of `trials.jsonl`."""

    number: int
    state: Literal["complete", "failed", "pruned"]
    weights: dict[str, Finite]
    settings: dict[str, Setting] = {}
    scores: dict[str, Finite] | None = None
    objective: Annotated[tuple[Finite, ...] | None, BeforeValidator(_as_tuple)] = None
    feasible: bool | None = True
    seconds: dict[str, Finite] | None = None
    error: str | None = None
    origin: str | None = None

    @property
    def imported(self) -> bool:
        """Whether it was re-scored from another run (`RUN#n`) and cost nothing here."""
        return self.origin is not None and "#" in self.origin


class TaskScore(Record):
    """Mean score of one task over `items` items, with its interval."""

    score: Finite
    interval: Interval | None = None
    items: int | None = None


class UtilityScore(Record):
    """A mixture's utility with its interval; null where an expression has no value."""

    value: Finite | None = None
    interval: Interval | None = None


class Scores(Record):
    """One measurement on one split: a value and an interval per objective, and every task's score."""

    objective: tuple[Finite, ...] = Field(min_length=1)
    interval: tuple[Interval | None, ...] | None = None
    tasks: dict[str, TaskScore] = {}
    utility: UtilityScore | None = None
    """Of a mixture's run: what it is judged by, its objective being a mean of raw scores."""

    def interval_of(self, index: int) -> Interval | None:
        """The interval of the objective at `index`, if it was computed."""
        return self.interval[index] if self.interval and index < len(self.interval) else None


class Winner(Record):
    """The trial that won, or null for a winner that is no single trial."""

    trial: int | None = None
    method: str = ""
    options: dict[str, Any] = {}
    exclude: tuple[str, ...] | None = None


class Vector(Record):
    """What `best.json` says of a distribution vector."""

    model: str = ""
    role: str = "expert"
    tokens: float | None = None
    range: Interval | None = None


class ObjectiveRecord(Record):
    """A resolved objective: weights of its tasks (adding up to 1) and floors."""

    name: str | None = None
    tasks: dict[str, Finite] = {}
    floors: dict[str, Finite] = {}


class Candidate(Record):
    """One of the best distinct trials, measured again on the select items."""

    trial: int | None = None
    weights: dict[str, Finite]
    settings: dict[str, Setting] = {}
    search: Scores | None = None
    select: Scores | None = None


class Baseline(Record):
    """A model that costs no search; `difference` is winner minus baseline over the same test items."""

    name: str
    kind: str = ""
    method: str | None = None
    density: Finite | None = None
    weights: dict[str, Finite] | None = None
    test: Scores
    difference: Scores | None = None


class ScanPoint(Record):
    weight: Finite
    select: Finite


class Scan(Record):
    """The weight of one vector alone against the select score."""

    vector: str
    points: tuple[ScanPoint, ...]


class TaskItemCounts(Record):
    """How many items of a task each split holds."""

    search: int
    select: int
    test: int
    note: str | None = None


class Items(Record):
    """How the items of all tasks were split."""

    scheme: str = "disjoint"
    overlap: bool = False
    tasks: dict[str, TaskItemCounts] = {}


class StageSeconds(Record):
    """Wall time of each stage of the job."""

    prepare: Finite | None = None
    search: dict[str, Finite] = {}
    select: Finite | None = None
    test: Finite | None = None


class Best(Record):
    """`best.json`: the result of a finished search."""

    winner: Winner
    weights: dict[str, Finite]
    settings: dict[str, Setting] = {}
    ratios: dict[str, Finite] | None = None
    ratios_note: str | None = None
    vectors: dict[str, Vector] = {}
    objective: tuple[ObjectiveRecord, ...] = ()
    search: Scores | None = None
    select: Scores | None = None
    test: Scores
    floors_met: bool | None = None
    candidates: tuple[Candidate, ...] = ()
    front: tuple[int, ...] | None = None
    baselines: tuple[Baseline, ...] = ()
    scan: Scan | None = None
    items: Items | None = None
    seconds: StageSeconds | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


@dataclass(frozen=True)
class Run:
    """Everything the report is made of; `best` is None while the search is unfinished."""

    folder: Path
    config: Config
    trials: tuple[Trial, ...]
    best: Best | None
    items: Items | None
    lock: dict[str, Any]
    model_files: tuple[str, ...]


def read_run(folder: Path) -> Run:
    """Read and check the run at `folder`.

    Raises :class:`AftermixError` when the folder is no run, or naming the file and place that is damaged.
    """
    if not (folder / "config.yaml").is_file():
        found = "no config.yaml in it" if folder.is_dir() else "no such folder"
        raise AftermixError(str(folder), f"expected a run folder, found {found}", "Name the -o folder of a search.")
    best = _best(folder)
    return Run(
        folder=folder,
        config=load_config(folder / "config.yaml"),
        trials=_trials(folder / "trials.jsonl"),
        best=best,
        items=(best and best.items) or _split_counts(folder),
        lock=_json(folder / "lock.json") or {},
        model_files=_model_files(folder / "model"),
    )


def read_record(path: Path, kind: type[R]) -> R | None:
    """The JSON object in `path`, checked; None when there is no such file."""
    values = _json(path)
    return None if values is None else _checked(kind, values, str(path))


def _trials(path: Path) -> tuple[Trial, ...]:
    """Trials by number. A last line without its end is a trial whose writing was cut off: it has not ended."""
    lines = _text(path).split("\n")[:-1] if path.is_file() else []
    trials = [
        _checked(Trial, _parsed(line, f"{path}, line {number}"), f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    doubled = [number for number, count in Counter(trial.number for trial in trials).items() if count > 1]
    if doubled:
        raise AftermixError(str(path), f"trial {doubled[0]} is there twice", "Keep its first line; each ends once.")
    return tuple(sorted(trials, key=lambda trial: trial.number))


def _best(folder: Path) -> Best | None:
    path = folder / "best.json"
    values = _json(path)
    if values is None:
        return None
    best = _checked(Best, values, str(path))
    for baseline in best.baselines:
        found, expected = len(baseline.test.objective), len(best.test.objective)
        if found != expected:
            where = f"{path}: baseline '{baseline.name}'"
            raise AftermixError(where, f"expected {expected} objective(s), found {found}", _REMEDY)
    return best


def _split_counts(folder: Path) -> Items | None:
    """Item counts from `items/split.json`, for a run that has no result yet."""
    path = folder / "items" / "split.json"
    values = _json(path)
    if values is None:
        return None
    try:
        tasks = {
            task: {**{split: len(parts[split]) for split in ("search", "select", "test")}, "note": parts.get("note")}
            for task, parts in values.items()
        }
        overlap = any(bool(parts.get("overlap")) for parts in values.values())
    except (AttributeError, KeyError, TypeError) as error:
        raise AftermixError(str(path), "expected search, select and test item lists for each task", _REMEDY) from error
    scheme = "first" if overlap else "disjoint"
    return _checked(Items, {"scheme": scheme, "overlap": overlap, "tasks": tasks}, str(path))


def _model_files(folder: Path) -> tuple[str, ...]:
    """Names of the finished model's files; empty when there is no model yet."""
    return tuple(sorted(file.name for file in folder.iterdir() if file.is_file())) if folder.is_dir() else ()


_REMEDY = "Restore the file from a backup; `aftermix search --resume` says what can be kept."


def _checked(kind: type[R], values: Any, where: str) -> R:
    """`values` as a record, or the first thing that is wrong with them."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        raise AftermixError(f"{where}: {place}" if place else where, detail["msg"], _REMEDY) from error


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    values = _parsed(_text(path), str(path))
    if not isinstance(values, dict):
        raise AftermixError(str(path), f"expected a JSON object, found {type(values).__name__}", _REMEDY)
    return values


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AftermixError(where, f"is not valid JSON ({error})", _REMEDY) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AftermixError(str(path), f"cannot be read ({error})", _REMEDY) from error
