"""Read a run folder: its configuration, trials, result and lock, checked before anything is drawn.

Unknown keys are tolerated, since a run may come from a newer version; a missing or damaged value is refused with the
file and the place in it. Of the run's files only `config.yaml` must exist, so that an unfinished run can be shown.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aftermix.config import Config, load_config
from aftermix.errors import AftermixError
from aftermix.runs.records import (
    BestRecord,
    ItemsRecord,
    R,
    TrialRecord,
)


@dataclass(frozen=True)
class Run:
    """Everything the report is made of; `best` is None while the search is unfinished."""

    folder: Path
    config: Config
    trials: tuple[TrialRecord, ...]
    best: BestRecord | None
    items: ItemsRecord | None
    lock: dict[str, Any]
    model_files: tuple[str, ...]


def read_run(folder: Path) -> Run:
    """Read and check the run at `folder`.

    Raises :class:`AftermixError` when the folder is no run, or naming the file and place that is damaged.
    """
    if not (folder / "config.yaml").is_file():
        found = "no config.yaml in it" if folder.is_dir() else "no such folder"
        raise AftermixError(str(folder), f"expected a run folder, found {found}", "Name the -o folder of a search.")

    best = _read_best(folder)
    return Run(
        folder=folder,
        config=load_config(folder / "config.yaml"),
        trials=_read_trial_records(folder / "trials.jsonl"),
        best=best,
        items=(best and best.items) or _split_counts(folder),
        lock=_read_json_object(folder / "lock.json") or {},
        model_files=_list_model_files(folder / "model"),
    )


def read_record(path: Path, kind: type[R]) -> R | None:
    """The JSON object in `path`, checked; None when there is no such file."""
    values = _read_json_object(path)
    return None if values is None else _validate_record(kind, values, str(path))


def _read_trial_records(path: Path) -> tuple[TrialRecord, ...]:
    """Trials by number. A last line without its end is a trial whose writing was cut off: it has not ended."""
    lines = _read_text(path).split("\n")[:-1] if path.is_file() else []
    trials = [
        _validate_record(TrialRecord, _parse_json(line, f"{path}, line {number}"), f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    doubled = [number for number, count in Counter(trial.number for trial in trials).items() if count > 1]
    if doubled:
        raise AftermixError(str(path), f"trial {doubled[0]} is there twice", "Keep its first line; each ends once.")
    return tuple(sorted(trials, key=lambda trial: trial.number))


def _read_best(folder: Path) -> BestRecord | None:
    path = folder / "best.json"
    values = _read_json_object(path)
    if values is None:
        return None
    best = _validate_record(BestRecord, values, str(path))
    for baseline in best.baselines:
        found, expected = len(baseline.test.objective), len(best.test.objective)
        if found != expected:
            where = f"{path}: baseline '{baseline.name}'"
            raise AftermixError(where, f"expected {expected} objective(s), found {found}", _REMEDY)
    return best


def _split_counts(folder: Path) -> ItemsRecord | None:
    """Item counts from `items/split.json`, for a run that has no result yet."""
    path = folder / "items" / "split.json"
    values = _read_json_object(path)
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
    return _validate_record(ItemsRecord, {"scheme": scheme, "overlap": overlap, "tasks": tasks}, str(path))


def _list_model_files(folder: Path) -> tuple[str, ...]:
    """Names of the finished model's files; empty when there is no model yet."""
    return tuple(sorted(file.name for file in folder.iterdir() if file.is_file())) if folder.is_dir() else ()


_REMEDY = "Restore the file from a backup; `aftermix search --resume` says what can be kept."


def _validate_record(kind: type[R], values: Any, where: str) -> R:
    """`values` as a record, or the first thing that is wrong with them."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        raise AftermixError(f"{where}: {place}" if place else where, detail["msg"], _REMEDY) from error


def _read_json_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    values = _parse_json(_read_text(path), str(path))
    if not isinstance(values, dict):
        raise AftermixError(str(path), f"expected a JSON object, found {type(values).__name__}", _REMEDY)
    return values


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AftermixError(where, f"is not valid JSON ({error})", _REMEDY) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AftermixError(str(path), f"cannot be read ({error})", _REMEDY) from error
