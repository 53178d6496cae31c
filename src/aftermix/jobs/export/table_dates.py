"""Texts of JSON lines that tables of `datasets` hold as times: where every value of one place is written as a date.

`pyarrow` infers the type of each key from the values of the file, and text that is a date throughout becomes a
timestamp. Its text is then another one, or the trainer fails at it. One value that is no date keeps all as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aftermix.training.data.files import JSON_LINES, find_suffix, read_records

BEGINS_AS_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:$|[ T]\d)")


def find_dates(parts: Sequence[Path], columns: Sequence[str]) -> str | None:
    """The first place of `columns` in a file of JSON lines whose texts are all dates, in words; None without one.

    Raises :class:`TrainingError` for a file that cannot be read.
    """
    for part in parts:
        places: dict[str, bool] = {}
        for _, record in read_records(part, ()) if not part.is_dir() and find_suffix(part) in JSON_LINES else ():
            for column in columns:
                _note_texts(places, column, record.get(column) if isinstance(record, dict) else None)
        dates = [place for place, are_dates in places.items() if are_dates]
        if dates:
            return f"{dates[0]} of {part}"
    return None


def is_date(text: str) -> bool:
    """True for text that `pyarrow` reads as a time.

    >>> is_date("2024-01-31"), is_date("2024-01-31T10:00:00Z"), is_date("2024-13-31"), is_date("2024")
    (True, True, False, False)
    """
    if BEGINS_AS_DATE.match(text) is None:
        return False
    import pyarrow

    for zone in (None, "UTC"):
        with suppress(pyarrow.ArrowInvalid):
            pyarrow.array([text]).cast(pyarrow.timestamp("s", zone))
            return True
    return False


def _note_texts(places: dict[str, bool], place: str, value: Any) -> None:
    if isinstance(value, str):
        places[place] = places.get(place, True) and is_date(value)
    elif isinstance(value, dict):
        for key, entry in value.items():
            _note_texts(places, f"{place}.{key}", entry)
    elif isinstance(value, list):
        for entry in value:
            _note_texts(places, place, entry)
