"""Prepared vectors of several processes of one machine: the first that needs them writes them, and all map the file.

The pages of a mapped file are in memory once, however many processes read them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from aftermix.files import write_atomically
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import MEMORY_SHARE, PreparedVectors, list_moved, map_tensors, spill_vectors

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
"""File system that lies in memory, on Linux."""
PREFIX = "aftermix-shared-"
"""Begin of the folders' names; the number of the process that made one follows."""
LARGEST = "largest.json"
"""Written last: where it lies, the tensors are whole."""
LOCK = "lock"


@contextmanager
def share_vectors(needed_bytes: int) -> Iterator[Path]:
    """A folder for :func:`prepare_shared_vectors` of any number of processes, removed at the end of the block.

    It lies in memory where `needed_bytes` fit there, as private vectors would, else where temporary files lie. What a
    killed process left in memory is removed first.
    """
    place = _choose_place(needed_bytes)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare_shared_vectors(merger: Merger, folder: Path) -> PreparedVectors:
    """As :func:`~aftermix.merging.prepared.prepare_vectors`, in `folder`, where others may have prepared them already.

    All who share a folder have the same merge. One prepares while the others wait; where it dies, the next begins anew.
    Raises :class:`CheckpointError` for unusable input.
    """
    moved = list_moved(merger)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / LARGEST).exists():
            write_atomically(folder / LARGEST, json.dumps(spill_vectors(merger, moved, folder)))

    largest = {name: (base, kept) for name, (base, kept) in json.loads((folder / LARGEST).read_text()).items()}
    return PreparedVectors(merger, moved, map_tensors(merger, moved, folder), largest, is_mapped=True)


def _choose_place(needed_bytes: int) -> Path | None:
    """The file system in memory, where there is room; None for that of temporary files."""
    if not os.access(MEMORY_FOLDER, os.W_OK):
        return None
    for left in MEMORY_FOLDER.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    room = min(shutil.disk_usage(MEMORY_FOLDER).free, psutil.virtual_memory().available * MEMORY_SHARE)
    return MEMORY_FOLDER if needed_bytes <= room else None
