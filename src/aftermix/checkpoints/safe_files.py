"""Files of a stranger's model folder that are read: regular ones, and links as far as they stay with the model.

An index, which its author writes, can name only entries of the folder. A link is made on this machine. One that stands
for weights may lead anywhere, since all that comes of it is numbers of a safetensors file. One that stands for any
other file must stay in the folder, or lead into the blobs of the hub's cache around it: those files are copied into
results, and results are published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftermix.checkpoints.companions.rules import PROCESSOR, TOKENIZER, fits
from aftermix.errors import CheckpointError, InputFaultError, Problem

NEEDED = (
    *("config.json", "generation_config.json", "*.index.json", "adapter_config.json", "vector.json", "train.json"),
    *("modules.json", "difference", *TOKENIZER, *PROCESSOR),
)
"""Patterns of files without which a model is another one, or does not serve, and of folders of such files."""
PUT_THERE = "Put the file itself there."
MAX_COMPANION_BYTES = 256 << 20
"""The largest vocabularies take a tenth of it."""
MAX_JSON_BYTES = 256 << 20
MAX_JSON_DEPTH = 64
LEAVE_ALONE = "Restore its content if that has changed, and leave it alone while the command runs."
Stamp = tuple[int, ...]
BLOBS = "blobs"
"""Beside `snapshots` in the hub's cache: what a snapshot's links lead to."""


def exists(path: Path) -> bool:
    """Tell whether anything is at `path`; False for no name of this file system and where it may not be looked."""
    try:
        return path.exists()
    except OSError:
        return False


def holds_file(path: Path) -> bool:
    """Tell whether a regular file, or a link to one, is at `path`. A pipe, a device and a folder are none."""
    return exists(path) and path.is_file()


def read_entry(path: Path, *, folder: Path, remedy: str, max_bytes: int) -> bytes:
    """Content of `path`, which lies in the model folder `folder`.

    Raises `OSError` when it cannot be read, and :class:`CheckpointError` for what is no regular file, is larger than
    `max_bytes`, or is a link that leads out of the folder.
    """
    size_bytes = path.stat().st_size
    if not path.is_file():
        raise CheckpointError(str(path), "expected a file, found a folder, pipe or device", remedy)
    if not _stays(path.resolve(), folder.resolve()):
        raise CheckpointError(str(path), f"is a link that leads out of the folder, to {path.resolve()}", PUT_THERE)

    if size_bytes > max_bytes:
        raise CheckpointError(str(path), f"expected at most {max_bytes} bytes, found {size_bytes}", remedy)
    return path.read_bytes()


def read_companion(path: Path, folder: Path) -> bytes:
    """Content of a file beside the weights in the model folder `folder`; :class:`CheckpointError` for anything else."""
    remedy = "Copy the file into the folder again."
    try:
        return read_entry(path, folder=folder, remedy=remedy, max_bytes=MAX_COMPANION_BYTES)
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", remedy) from error


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`, a file of a model folder; :class:`CheckpointError` with `remedy` for anything else."""
    try:
        content = read_entry(path, folder=path.parent, remedy=remedy, max_bytes=MAX_JSON_BYTES)
        value = json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(str(path), f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(value, dict):
        raise CheckpointError(str(path), f"expected a JSON object, found {type(value).__name__}", remedy)

    if _is_deep(value):
        raise CheckpointError(str(path), f"is nested deeper than {MAX_JSON_DEPTH}", remedy)
    return value


def _is_deep(value: Any) -> bool:
    """Tell whether values lie so deep that comparing or showing them would exhaust the stack."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def find_outward_links(folder: Path) -> list[Problem]:
    """Every link in the model folder `folder` that stands for its configuration or tokenizer and leads out of it."""
    return [
        Problem(str(entry), f"is a link that leads out of the folder, to {entry.resolve()}", PUT_THERE)
        for entry in sorted(folder.iterdir())
        if fits(entry.name, NEEDED) and entry.is_symlink() and exists(entry) and leads_out(entry, folder)
    ]


def leads_out(path: Path, folder: Path) -> bool:
    """Tell whether `path` in the model folder `folder` stands for something outside of it; a broken link does not."""
    return exists(path) and not _stays(path.resolve(), folder.resolve())


def take_stamp(file: Path) -> Stamp:
    """Numbers of a file, some of which change when it is written to or replaced."""
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def refuse_changed_file(file: Path, stamp: Stamp) -> None:
    """Raise :class:`InputFaultError` when `file` is gone, or was written to or replaced since `stamp` was taken."""
    try:
        now = take_stamp(file)
    except OSError as error:
        found = f"cannot be read any more ({error.strerror or error})"
        raise InputFaultError(str(file), found, LEAVE_ALONE) from error
    if now != stamp:
        raise InputFaultError(str(file), "has changed since it was opened", LEAVE_ALONE)


@dataclass(frozen=True)
class InputStamps:
    """Stamps of all files of a job's inputs, from when it opened them.

    An input that is touched, overwritten, replaced or removed while the job runs is a fault of the input, whatever was
    in work: what was read meanwhile may be of two versions.
    """

    stamps: Mapping[Path, Stamp]

    @staticmethod
    def take(files: Iterable[Path]) -> InputStamps:
        """Stamps of `files` as they are now. Raises :class:`InputFaultError` for one that cannot be looked at."""
        stamps = {}
        for file in files:
            try:
                stamps[file] = take_stamp(file)
            except OSError as error:
                found = f"cannot be read any more ({error.strerror or error})"
                raise InputFaultError(str(file), found, LEAVE_ALONE) from error
        return InputStamps(stamps)

    def refuse_changed(self) -> None:
        """Raise :class:`InputFaultError` naming the first file that is not what it was."""
        for file, stamp in self.stamps.items():
            refuse_changed_file(file, stamp)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Refuse a changed input before and after the block; where one changed, that is why the block raised."""
        self.refuse_changed()
        try:
            yield
        except Exception:
            self.refuse_changed()
            raise
        self.refuse_changed()


def _stays(target: Path, folder: Path) -> bool:
    """Tell whether `target` lies in `folder`, or in the blobs of the hub's cache that has `folder` in a snapshot."""
    caches = (place.parent for place in folder.parents if place.name == "snapshots")
    return target.is_relative_to(folder) or any(target.parent == cache / BLOBS for cache in caches)
