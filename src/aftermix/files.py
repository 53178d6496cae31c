"""Files written so that a reader sees the old content, the new content, or nothing: never half of either."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

READ_BYTES = 4 << 20


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, force it to disk, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    data = content.encode() if isinstance(content, str) else content
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. NaN and Inf are refused (`ValueError`), since JSON has neither."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, value: Any) -> None:
    """Append `value` to `path` as one line of JSON and force it to disk before returning."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def fingerprint(path: Path) -> str:
    """XXH3-128 of a file's content, as `xxh3_128:HEX`. It tells versions apart at the speed of memory.

    It is no protection against somebody who forges a file; the hub's own SHA-256 is used where there is one.
    """
    import xxhash

    digest, buffer = xxhash.xxh3_128(), bytearray(READ_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return f"xxh3_128:{digest.hexdigest()}"


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
