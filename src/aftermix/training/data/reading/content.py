"""A look at the bytes of a text or JSON file: compressed, in another encoding, or records under the name of a text."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path
from typing import Any

from aftermix.errors import TrainingError

COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{f"BZh{level}1AY".encode(): "bzip2" for level in range(1, 10)},
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}
ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32LE",
    b"\x00\x00\xfe\xff": "UTF-32BE",
    b"\xff\xfe": "UTF-16LE",
    b"\xfe\xff": "UTF-16BE",
}
"""Encodings by their byte order mark, the longer ones first."""
POINTER = b"version https://git-lfs.github.com/spec/"
HEAD_BYTES = 4096


def open_data(path: Path) -> Any:
    """The bytes of `path`, decompressed where its name ends in `.gz`."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def refuse_foreign_bytes(path: Path) -> None:
    """Raise :class:`TrainingError` for a text or JSON file that is something else by its first bytes.

    Compressed files without `.gz`, UTF-16 and UTF-32, parquet, pointers of git-lfs; the remedy names what it is.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if path.suffix.lower() == ".gz":
        if head and not head.startswith(b"\x1f\x8b"):
            raise TrainingError(
                str(path), "cannot be read (Not a gzipped file, as its name says)", "Take `.gz` off it."
            )
        with open_data(path) as file:
            head = file.read(HEAD_BYTES)

    for mark, compression in COMPRESSIONS.items():
        if head.startswith(mark):
            gives = "Add `.gz` to its name." if compression == "gzip" else "Decompress it, or compress it by gzip."
            raise TrainingError(str(path), f"is compressed by {compression}, as its name does not say", gives)
    if head.startswith(b"PAR1"):
        raise TrainingError(str(path), "is a parquet file, as its name does not say", "Name it `.parquet`.")
    if head.startswith(POINTER):
        raise TrainingError(str(path), "is a pointer of git-lfs, not the data", "Fetch the data: `git lfs pull`.")

    encoding = next((name for mark, name in ENCODINGS.items() if head.startswith(mark)), None) or _guess_utf16(head)
    if encoding:
        raise TrainingError(str(path), f"is {encoding}, expected UTF-8", _convert(path, encoding))
    if b"\0" in head:
        raise TrainingError(str(path), "holds NUL characters, so it is no text file", "Name a JSONL or text file.")


def _guess_utf16(head: bytes) -> str | None:
    """UTF-16 without a mark, by the zeros of its Latin letters."""
    even, odd = head[0::2], head[1::2]
    if len(head) < 4 or (b"\0" in even and b"\0" in odd):
        return None
    if not odd.strip(b"\0"):
        return "UTF-16LE"
    return None if even.strip(b"\0") else "UTF-16BE"


def _convert(path: Path, encoding: str) -> str:
    command, source = f"iconv -f {encoding} -t UTF-8", shlex.quote(str(path))
    if path.suffix.lower() == ".gz":
        return f"Convert it: `gzip -dc {source} | {command} | gzip > NEW.gz`."
    return f"Convert it: `{command} {source} > NEW`."


def explain_encoding(path: Path, error: UnicodeDecodeError, *, where: str | None = None) -> TrainingError:
    """The error of bytes that are not UTF-8: most likely they are Windows-1252, of which Latin-1 is a part."""
    wrong = error.object[error.start]
    found = f"is not UTF-8 (byte 0x{wrong:02x}); perhaps it is Latin-1 or Windows-1252"
    return TrainingError(where or str(path), found, _convert(path, "WINDOWS-1252"))


def refuse_records_as_text(path: Path, text: str) -> None:
    """Raise :class:`TrainingError` for JSON records in a file whose name says plain text.

    These are lines that all are JSON objects, or one JSON list of objects. They would be trained on as text, field
    names, brackets and all.
    """
    if "\0" in text:
        raise TrainingError(str(path), "holds NUL characters, so it is no text file", "Name a JSONL or text file.")

    start = text.lstrip()[:1]
    records = {"{": _count_objects, "[": _count_entries}.get(start, lambda _: 0)(text)
    if records:
        found = f"holds {records} JSON object{'s' if records > 1 else ''} and nothing else, but is named as plain text"
        name = f"{path.name.removesuffix('.gz')}.jsonl{'.gz' if path.name.endswith('.gz') else ''}"
        raise TrainingError(str(path), found, f"Name it for what it is, `{name}`, and its fields are read.")


def _count_objects(text: str) -> int:
    """Lines of `text` when all but blank ones are JSON objects; else 0."""
    count = 0
    for line in text.split("\n"):
        if line.strip():
            if not isinstance(_parse(line), dict):
                return 0
            count += 1
    return count


def _count_entries(text: str) -> int:
    """Entries of `text` when it is one JSON list of objects; else 0."""
    entries = _parse(text)
    return len(entries) if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries) else 0


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
