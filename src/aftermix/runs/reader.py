"""Read a run folder: its configuration, trials, result and lock, checked before anything is drawn.

A value that is missing, damaged or unknown is refused with the file and the place in it. Of the run's files only
`config.yaml` must exist, so that an unfinished run can be shown.
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from aftermix.config import Config, EvaluateConfig, parse_config
from aftermix.errors import AftermixError, ask_meant_path
from aftermix.files import follow_moved_paths
from aftermix.runs.input_records import CONFIG_FILE, LOCK_FILE, SPLIT_FILE, LockRecord, SplitRecord
from aftermix.runs.journal import read_trials
from aftermix.runs.json_record import REMEDY, read_record, read_text
from aftermix.runs.mixture_records import (
    DESIGN_FILE,
    LevelDesignRecord,
    LevelRecord,
    MixtureDesignRecord,
    MixtureRecord,
    SearchedLevelRecord,
    TreeDesignRecord,
    TreeRecord,
)
from aftermix.runs.records import BEST_FILE, MODEL_FOLDER, BestRecord, ItemsRecord, TaskItemCounts
from aftermix.runs.trials import Trial
from aftermix.yaml_file import read_yaml

RunResult = BestRecord | MixtureRecord | TreeRecord
"""`best.json` of a search, of a mixture, or of a tree of domains."""
LEVELS_FOLDER = "levels"
MEANT_THEN = {"strategy": "tpe", "batch": 1}
"""Keys of the search that runs of old have not written, and what they meant."""
SMALL_THEN = "proportion"
"""Split of small tasks in runs of old, whose `evaluate.items` says nothing of it."""


@dataclass(frozen=True)
class RunContents:
    """Everything the report is made of; `best` is None while the search is unfinished."""

    folder: Path
    config: Config
    trials: tuple[Trial, ...]
    best: RunResult | None
    items: ItemsRecord | None
    lock: LockRecord | None
    model_files: tuple[str, ...]


def read_run(folder: Path) -> RunContents:
    """Read and check the run at `folder`.

    Raises :class:`AftermixError` when the folder is no run, or naming the file and place that is damaged.
    """
    if not (folder / CONFIG_FILE).is_file():
        found = "no config.yaml in it" if folder.is_dir() else "no such folder"
        remedy = ask_meant_path("Name the -o folder of a search.", folder)
        raise AftermixError(str(folder), f"expected a run folder, found {found}", remedy)

    best = read_best(folder) if (folder / BEST_FILE).is_file() else None
    return RunContents(
        folder=folder,
        config=_read_config(folder),
        trials=tuple(read_trials(folder)),
        best=best,
        items=best.items if best else _count_items(folder),
        lock=read_record(folder / LOCK_FILE, LockRecord),
        model_files=_list_model_files(folder / MODEL_FOLDER),
    )


def _read_config(folder: Path) -> Config:
    """The file of a run, whose models are looked for beside it where the whole project was moved."""
    values = follow_moved_paths(read_yaml(folder / CONFIG_FILE), folder)
    return fill_in_missing(parse_config(values, where=CONFIG_FILE, folder=folder))


def fill_in_missing(config: Config) -> Config:
    """`config`, the file of a run, in which a key that is missing means what it meant then.

    Runs were once made without these keys: by TPE alone, which proposed one point after another, and with small tasks
    split in proportion.
    """
    missing = {key: value for key, value in MEANT_THEN.items() if key not in config.search.model_fields_set}
    config = config.model_copy(update={"search": config.search.model_copy(update=missing)})

    evaluate = config.evaluate
    if evaluate is None or evaluate.items.states_counts or "small" in evaluate.items.model_fields_set:
        return config
    return config.model_copy(update={"evaluate": set_small_split(evaluate, SMALL_THEN)})


def set_small_split(evaluate: EvaluateConfig, small: str) -> EvaluateConfig:
    """`evaluate` that says how small tasks are split."""
    return evaluate.model_copy(update={"items": evaluate.items.model_copy(update={"small": small})})


def read_best(folder: Path) -> RunResult:
    """The result of the finished run in `folder`, as the class that its keys are of.

    Raises :class:`AftermixError` for a file that is missing or damaged.
    """
    path = folder / BEST_FILE
    text = read_text(path)
    keys = _list_keys(text)
    kind: type[RunResult] = TreeRecord if "tree" in keys else MixtureRecord if "optimum" in keys else BestRecord
    best = kind.parse(text, where=str(path))

    for baseline in best.baselines:
        found, expected = len(baseline.test.objective), len(best.test.objective)
        if found != expected:
            where = f"{path}: baseline '{baseline.name}'"
            raise AftermixError(where, f"expected {expected} objective(s), found {found}", REMEDY)
    return best


def read_design(folder: Path) -> MixtureDesignRecord | None:
    """The design of a mixture, of a tree of domains or of a group in one; None for a search, which has none."""
    path = folder / DESIGN_FILE
    if not path.is_file():
        return None

    text = read_text(path)
    keys = _list_keys(text)
    kind = TreeDesignRecord if "tree" in keys else LevelDesignRecord if "level" in keys else MixtureDesignRecord
    return kind.parse(text, where=str(path))


def locate_level(run: Path, name: str) -> Path:
    """Folder of a group in the run of a tree."""
    return run / LEVELS_FOLDER / name


def read_level(folder: Path) -> LevelRecord | None:
    """The result of the group in `folder`, a :class:`SearchedLevelRecord` if it was searched; None without one."""
    path = folder / BEST_FILE
    if not path.is_file():
        return None

    text = read_text(path)
    return (SearchedLevelRecord if "winner" in _list_keys(text) else LevelRecord).parse(text, where=str(path))


def _count_items(folder: Path) -> ItemsRecord | None:
    """Item counts from `items/split.json`, for a run that has no result yet."""
    split = read_record(folder / SPLIT_FILE, SplitRecord)
    if split is None:
        return None

    tasks = {
        name: TaskItemCounts(search=len(task.search), select=len(task.select), test=len(task.test), note=task.note)
        for name, task in split.tasks.items()
    }
    overlap = any(task.overlap for task in split.tasks.values())
    return ItemsRecord(scheme="first" if overlap else "disjoint", overlap=overlap, tasks=tasks)


def _list_model_files(folder: Path) -> tuple[str, ...]:
    """Names of the finished model's files; empty when there is no model yet."""
    return tuple(sorted(file.name for file in folder.iterdir() if file.is_file())) if folder.is_dir() else ()


def _list_keys(text: str) -> Set[str]:
    """Keys of the object in `text`; none for a damaged one, of which its class tells more."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    return values.keys() if isinstance(values, dict) else frozenset()
