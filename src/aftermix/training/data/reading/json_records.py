"""Records of a JSON file: an object on each line, or one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftermix.errors import TrainingError
from aftermix.training.data.reading.content import explain_encoding, open_data

RecordFields = dict[str, Any]
WHITE_SPACE = " \t\r\n"
SHOWN_FIELDS = 8
LONGEST_OBJECT = 1 << 24
"""Bytes that are looked at for an object of several lines."""


def read_json_records(path: Path) -> Iterator[tuple[str, RecordFields]]:
    """Place and fields of each record. Of lines one is held at a time; a list is held as text.

    Raises :class:`TrainingError` at the line or record that is not an object.
    """
    with open_data(path) as file:
        start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"[":
        with open_data(path) as file:
            text = file.read().decode("utf-8-sig")
        if _is_one_value(text):
            yield from _read_list(path, text)
            return

    with open_data(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}, line {number}", _parse_line(path, line, number)


def _is_one_value(text: str) -> bool:
    """True where the text is one JSON value, and no line of several."""
    try:
        json.loads(text.split("\n", 1)[0])
    except RecursionError:
        return False
    except ValueError:
        return True  # the value goes on in the next line
    return not text.partition("\n")[2].strip()


def _read_list(path: Path, text: str) -> Iterator[tuple[str, RecordFields]]:
    """The objects of a list, parsed one at a time."""
    decoder, at, number = json.JSONDecoder(), _skip(text, text.index("[") + 1), 0
    while not text.startswith("]", at):
        number += 1
        where = f"{path}, record {number}"
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise TrainingError(where, f"is not valid JSON ({error})", "Write a list of objects.") from error

        yield where, _check_object(value, where)
        at = _skip(text, at)
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith("]", at):
            found = f"expected a comma or the end of the list after it, found {text[at : at + 20]!r}"
            raise TrainingError(where, found, "Write one list of objects, whole.")

    rest = text[at + 1 :].strip()
    if rest:
        raise TrainingError(str(path), f"goes on after its list: {rest[:20]!r}", "Write one list of objects.")


def _skip(text: str, at: int) -> int:
    """The first place from `at` on that is no white space."""
    while at < len(text) and text[at] in WHITE_SPACE:
        at += 1
    return at


def _parse_line(path: Path, line: bytes, number: int) -> RecordFields:
    where = f"{path}, line {number}"
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise explain_encoding(path, error, where=where) from error
    except (ValueError, RecursionError) as error:
        raise _explain_line(path, where, error) from error
    return _check_object(value, where)


def _explain_line(path: Path, where: str, error: Exception) -> TrainingError:
    """The error of a line that is no JSON: perhaps the first object goes on in the next line."""
    with open_data(path) as file:
        text = file.read(LONGEST_OBJECT).decode("utf-8-sig", errors="replace")
    try:
        value, end = json.JSONDecoder().raw_decode(text, _skip(text, 0))
    except (ValueError, RecursionError):
        return TrainingError(where, f"is not valid JSON ({error})", "Write one JSON object a line.")

    if not isinstance(value, dict) or "\n" not in text[:end].strip():
        return TrainingError(where, f"is not valid JSON ({error})", "Write one JSON object a line.")
    fields = ", ".join(list(value)[:SHOWN_FIELDS])
    found = f"begins an object that goes over several lines (its fields: {fields})"
    return TrainingError(where, found, "Write each record on one line, or all of them as one JSON list.")


def _check_object(value: Any, where: str) -> RecordFields:
    if not isinstance(value, dict):
        found = f"expected a JSON object, found {type(value).__name__}"
        raise TrainingError(where, found, 'Write an object such as `{"text": "..."}` on each line.')
    return value
