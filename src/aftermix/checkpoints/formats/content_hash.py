"""Hashes of weight files by content: each file is read once in a process, until it changes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from aftermix.checkpoints.safe_files import Stamp, take_stamp
from aftermix.errors import CheckpointError
from aftermix.files import fingerprint


def hash_weights(file: Path) -> str:
    """:func:`~aftermix.files.fingerprint` of a weight file. Raises :class:`CheckpointError` when it cannot be read.

    Whoever asks again gets the same answer without reading, as long as the file is not written to: an expert is held
    against its vector, and its hash then stands in the `lock.json` of the merge.
    """
    try:
        return _hash_once(file, take_stamp(file))
    except OSError as error:
        found = f"cannot be read any more ({error.strerror or error})"
        raise CheckpointError(str(file), found, "Begin again when it is back.") from error


def hash_all_weights(files: Iterable[Path]) -> dict[str, str]:
    """Hash by file name."""
    return {file.name: hash_weights(file) for file in files}


@lru_cache(maxsize=1024)
def _hash_once(file: Path, _stamp: Stamp) -> str:
    return fingerprint(file)
