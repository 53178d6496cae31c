"""Data files that a local task YAML names relative to itself: lm-eval and `datasets` look in the working directory."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftermix.errors import EvaluationError, ask_meant_path
from aftermix.files import fingerprint


def resolve_data_files(task: dict[str, Any], *, folder: Path) -> dict[str, Any]:
    """A copy of the task configuration `task`, found in `folder`, whose local files are absolute.

    `dataset_kwargs.data_files` (a name, a list, or either by split; globs allowed), `dataset_kwargs.data_dir` and a
    `dataset_path` that is a folder are looked up beside the YAML file first, then in the working directory as lm-eval
    does. Addresses (`hf://`, `https://`) stay as they are. Raises :class:`EvaluationError` for a file in neither place.
    """
    name = str(task.get("task", folder))
    kwargs = dict(task.get("dataset_kwargs") or {})
    for key in ("data_files", "data_dir"):
        if kwargs.get(key):
            kwargs[key] = _locate_files(kwargs[key], folder=folder, task=name)

    resolved = {**task, **({"dataset_kwargs": kwargs} if kwargs else {})}
    path = task.get("dataset_path")
    if isinstance(path, str) and "data_files" not in kwargs and (folder / path).is_dir():
        resolved["dataset_path"] = str((folder / path).resolve())
    return resolved


def tell_content(task: dict[str, Any]) -> dict[str, Any]:
    """A copy of the resolved `task` that names the content of its local data files.

    `datasets` takes prepared rows from its cache where path and time of change are as before, and these may be so when
    the content is not (checkouts and copies with a fixed time). Its `description` is part of what it looks them up by.
    """
    kwargs = dict(task.get("dataset_kwargs") or {})
    entries = list(_list_entries([kwargs.get("data_files"), kwargs.get("data_dir"), task.get("dataset_path")]))
    files = sorted({path for entry in entries for path in _list_files(entry)})
    if not files or "description" in kwargs or "custom_dataset" in task:
        return task
    digest = hashlib.sha256("\n".join(fingerprint(path) for path in files).encode()).hexdigest()
    return {**task, "dataset_kwargs": {**kwargs, "description": f"content {digest}"}}


def _list_entries(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _list_entries(part)
    elif isinstance(value, str) and Path(value).is_absolute():
        yield value


def _list_files(pattern: str) -> Iterator[Path]:
    """Files that an absolute pattern, or a folder, stands for."""
    root = Path(Path(pattern).anchor)
    for found in (Path(pattern), *root.glob(str(Path(pattern).relative_to(root)))):
        if found.is_file():
            yield found
        elif found.is_dir():
            yield from (path for path in found.rglob("*") if path.is_file())


def _locate_files(entry: Any, *, folder: Path, task: str) -> Any:
    if isinstance(entry, dict):
        return {split: _locate_files(value, folder=folder, task=task) for split, value in entry.items()}
    if isinstance(entry, list | tuple):
        return [_locate_files(value, folder=folder, task=task) for value in entry]
    if not isinstance(entry, str) or "://" in entry:
        return entry

    for root in (folder, Path.cwd()):
        candidate = root / Path(entry).expanduser()
        if candidate.exists():
            return _escape_start(candidate.resolve(), candidate.resolve())
        if not Path(entry).is_absolute() and any(root.glob(entry)):
            return _escape_start(candidate.resolve(), root.resolve())
    raise EvaluationError(
        f"task '{task}'",
        f"data file '{entry}' is neither beside the YAML file ({folder}) nor in the working directory",
        ask_meant_path("Correct `dataset_kwargs.data_files`; paths are relative to the YAML file.", folder / entry),
    )


def _escape_start(pattern: Path, start: Path) -> str:
    """`pattern` for `datasets`, which reads every path as one: `start` stands for itself, whatever its name holds."""
    return glob.escape(str(start)) + str(pattern).removeprefix(str(start))
