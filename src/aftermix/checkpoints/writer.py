"""A model folder written so that it appears complete or not at all."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from aftermix.checkpoints.safe_files import exists
from aftermix.checkpoints.shards import TensorPiece, TensorSpec, plan_shards, write_shards
from aftermix.errors import CheckpointError

MARK = ".incomplete-"
SHOWN = 3
OCCUPANTS = {
    "design.json": "the run of a mixture",
    "trials.jsonl": "the run of a search",
    "vector.json": "a stored vector",
    "train.json": "a trained expert",
    "mixture.csv": "an exported mixture",
    "aftermix.yaml": "a merged model",
    "config.json": "a model",
    "config.yaml": "a run",
}
"""Files that tell what a folder is, the most telling first."""


def write_checkpoint(
    folder: Path,
    pieces: Iterable[TensorPiece],
    *,
    layout: Sequence[TensorSpec],
    companions: Mapping[str, bytes | Callable[[], bytes]],
    max_shard_bytes: int,
) -> Path:
    """Write weights and `companions` (file name to content; `config.json` among them) as the new folder `folder`.

    Content that is a function is asked for once the weights are written.

    Everything is written to a hidden folder beside it, forced to disk and renamed, `config.json` last: a killed process
    leaves no folder that a loader would take for a model. Raises :class:`CheckpointError` when `folder` holds anything.
    """
    with stage_folder(folder) as hidden:
        write_shards(hidden, pieces, plan_shards(layout, max_shard_bytes))
        write_companions(hidden, companions)
    return folder


def write_companions(folder: Path, companions: Mapping[str, bytes | Callable[[], bytes]]) -> None:
    """Write the files beside the weights, `config.json` last: without it no loader takes the folder for a model."""
    for name, content in sorted(companions.items(), key=lambda item: item[0] == "config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content() if callable(content) else content)


@contextmanager
def stage_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that becomes `folder` when the block ends well, and goes when it does not."""
    refuse_occupied(folder)
    folder = follow_links(folder)  # `.` has no name, and a link cannot be renamed over
    hidden = folder.with_name(f".{folder.name}{MARK}{socket.gethostname()}-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        hidden.mkdir()
    except OSError as error:
        raise _explain_unwritable(folder, error) from error

    # The rename comes last, when all is on disk: whatever stands under the final name is complete.
    try:
        yield hidden
        _sync(hidden)
        if folder.is_dir():
            folder.rmdir()  # an empty folder made by the user; a full one was refused above
        hidden.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise _explain_unwritable(folder, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _explain_unwritable(folder: Path, error: OSError) -> CheckpointError:
    remedy = "Free space or choose another folder; nothing was left behind."
    return CheckpointError(str(folder), f"cannot be written ({error.strerror or error})", remedy)


def follow_links(folder: Path) -> Path:
    """The place of `folder` once links are followed; :class:`CheckpointError` for one that leads to itself."""
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(str(folder), "is a link that leads to itself", "Name another folder.") from error


def refuse_occupied(folder: Path) -> None:
    """Raise :class:`CheckpointError` when `folder` is a file or holds anything."""
    if exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        held = f"it holds {describe_occupant(folder)}" if folder.is_dir() else "it is a file"
        remedy = f"Name a new folder, or remove this one yourself: {held}."
        raise CheckpointError(str(folder), "exists and is not empty", remedy)


def describe_occupant(folder: Path) -> str:
    """Words on what `folder` holds: a run, a model, a vector, whatever this program writes, or its first names."""
    names = sorted(entry.name for entry in folder.iterdir())
    known = next((what for file, what in OCCUPANTS.items() if file in names), None)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = ", ".join(names[:SHOWN]) + more
    return f"{known} ({listed})" if known is not None else listed


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this machine left of earlier attempts at `folder`."""
    prefix = f".{folder.name}{MARK}{socket.gethostname()}-"
    for leftover in folder.parent.iterdir():  # no glob: the name may hold `*`
        process = leftover.name.removeprefix(prefix)
        if process != leftover.name and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(leftover, ignore_errors=True)


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
