"""Documents of a dataset: JSON lines or plain text, gzip-compressed or not, read whole and refused by line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftermix.errors import TrainingError

JSON_LINES = (".jsonl", ".ndjson", ".json")
NOT_READ = (".parquet", ".arrow", ".csv", ".tsv", ".zst", ".xz", ".bz2", ".zip", ".7z", ".bin", ".npy")
SHOWN_FIELDS = 8


@dataclass(frozen=True)
class Documents:
    """The texts of one dataset in file order, and how many documents without a single character were left out."""

    path: Path
    texts: list[str]
    empty: int

    @property
    def characters(self) -> int:
        """Characters (Unicode code points) of all texts."""
        return sum(map(len, self.texts))


def read_documents(path: Path, *, text_field: str = "text") -> Documents:
    """Every document of the file at `path`.

    A name ending in `.jsonl`, `.ndjson` or `.json` (then perhaps `.gz`) is read as one JSON object a line, whose
    `text_field` is a document; blank lines between objects are passed over. Anything else is one plain-text document.
    Raises :class:`TrainingError` for what is missing, unreadable or empty, and for a line without text, by its number.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")
    _refuse_unusable(path, kind)
    try:
        texts = list(_json_lines(path, text_field) if kind in JSON_LINES else _plain_text(path))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TrainingError(
            str(path), f"cannot be read ({error})", "Name a readable UTF-8 file, whole, `.gz` if it is compressed."
        ) from error
    filled = [text for text in texts if text]
    if not filled:
        raise TrainingError(str(path), "holds no text", "Name a file with at least one document.")
    return Documents(path=path, texts=filled, empty=len(texts) - len(filled))


def _refuse_unusable(path: Path, kind: str) -> None:
    if not path.exists():
        raise TrainingError(
            str(path), "there is no such file", "Correct `data:`; it is taken from the YAML file's folder."
        )
    if not path.is_file():
        raise TrainingError(str(path), "is not a file", "Name one JSONL or text file.")
    if kind in NOT_READ:
        found = f"expected JSONL or plain text, found a {kind} file"
        raise TrainingError(str(path), found, "Write it as JSON lines, one object with the text a line.")


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _plain_text(path: Path) -> Iterator[str]:
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    if "\0" in text:
        raise TrainingError(str(path), "holds NUL characters, so it is no text file", "Name a JSONL or text file.")
    yield text


def _json_lines(path: Path, text_field: str) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _text_of(line, text_field, where=f"{path}, line {number}")


def _text_of(line: bytes, text_field: str, *, where: str) -> str:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TrainingError(where, f"is not valid JSON ({error})", "Write one JSON object a line.") from error
    if not isinstance(value, dict):
        found = f"expected a JSON object, found {type(value).__name__}"
        raise TrainingError(where, found, f'Write `{{"{text_field}": "..."}}` on each line.')
    if text_field not in value:
        fields = ", ".join(sorted(value)[:SHOWN_FIELDS]) or "none"
        raise TrainingError(
            where, f"has no field '{text_field}'; its fields: {fields}", "Set `text_field:` to the field with the text."
        )
    text = value[text_field]
    if not isinstance(text, str):
        raise TrainingError(
            where,
            f"expected text in '{text_field}', found {type(text).__name__}",
            "Write a string, or remove the line.",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(where, f"holds half a surrogate pair ({error.reason})", "Repair the text.") from error
    return text
