"""Weights brought into the system's cache while Python is still loading libraries."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil

MEMORY_SHARE = 0.25
"""Of the free memory: what is fetched early must not push out what is fetched next."""


def read_ahead(models: Iterable[str]) -> None:
    """Ask the system to fetch the safetensors files of local folders `models`, and return at once.

    A hint and no more: what is absent or unreadable is reported by whoever reads it.
    """
    if hasattr(os, "posix_fadvise"):
        Thread(target=_fetch, args=(list(models),), name="read ahead", daemon=True).start()


def _fetch(models: list[str]) -> None:
    left = int(psutil.virtual_memory().available * MEMORY_SHARE / max(len(models), 1))
    for model in models:
        wanted = left
        with suppress(OSError, ValueError):  # no name that a file can have
            for file in sorted(Path(model).glob("*.safetensors")):
                wanted -= _advise(file, wanted) if file.is_file() else 0  # opening a pipe would wait


def _advise(file: Path, most_bytes: int) -> int:
    """Ask for the beginning of one file; the number of bytes asked for."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        wanted = max(0, min(os.fstat(descriptor).st_size, most_bytes))
        if wanted:  # 0 would mean the whole file
            os.posix_fadvise(descriptor, 0, wanted, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
    return wanted
