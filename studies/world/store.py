"""Measurements kept as JSON lines under a key of all that decides them, so that a killed study goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aftermix.files import append_line

Row = dict[str, Any]


class Store:
    """What has been measured: `key` -> row. A line that a kill left unfinished is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self.measured = 0
        """How many were measured by this process, not found."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            whole = path.read_bytes().rpartition(b"\n")[0]
            self.rows = {row["key"]: row for row in map(json.loads, whole.splitlines())}
            if path.stat().st_size > len(whole) + 1:
                path.write_bytes(whole + b"\n" if whole else b"")

    def get(self, identity: Row, measure: Callable[[], Row]) -> Row:
        """The row of `identity`, measured now when it is not there. `identity` must be plain JSON."""
        key = key_of(identity)
        if key not in self.rows:
            row = {"key": key, "identity": identity, **measure()}
            append_line(self.path, row)
            self.rows[key] = row
            self.measured += 1
        return self.rows[key]


def key_of(identity: Row) -> str:
    """Hash of an identity, whatever the order of its keys.

    >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()[:20]
