"""Data files that a local task YAML names relative to itself: lm-eval and `datasets` look in the working directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftermix.errors import EvaluationError


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


def _locate_files(entry: Any, *, folder: Path, task: str) -> Any:
    if isinstance(entry, dict):
        return {split: _locate_files(value, folder=folder, task=task) for split, value in entry.items()}
    if isinstance(entry, list | tuple):
        return [_locate_files(value, folder=folder, task=task) for value in entry]
    if not isinstance(entry, str) or "://" in entry:
        return entry

    for root in (folder, Path.cwd()):
        candidate = root / Path(entry).expanduser()
        if candidate.exists() or any(root.glob(entry) if not Path(entry).is_absolute() else ()):
            return str(candidate.resolve())
    raise EvaluationError(
        f"task '{task}'",
        f"data file '{entry}' is neither beside the YAML file ({folder}) nor in the working directory",
        "Correct `dataset_kwargs.data_files`; paths are relative to the YAML file.",
    )
