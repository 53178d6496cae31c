"""Merge weights on the command line: `ja=0.3,math=0.5`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from aftermix.errors import SearchError

WHERE = "--weights"
FORM = "Write NAME=NUMBER, separated by commas, e.g. ja=0.3,math=0.5."


def parse_weights(text: str, vectors: Iterable[str]) -> dict[str, float]:
    """A weight for each of `vectors`; one that `text` does not name weighs 0.

    Raises :class:`SearchError` for a part that is not `NAME=NUMBER`, a number that is not finite, and a vector that the
    run has not or that is named twice.

    >>> parse_weights("ja=0.3, math=-1", ["ja", "math", "code"])
    {'ja': 0.3, 'math': -1.0, 'code': 0.0}
    """
    names = list(vectors)
    given: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise SearchError(WHERE, f"expected NAME=NUMBER, found '{part.strip()}'", FORM)
        if name not in names:
            found = f"expected a vector of the run ({', '.join(names)}), found '{name}'"
            raise SearchError(WHERE, found, "Correct the name.")
        if name in given:
            raise SearchError(WHERE, f"expected each vector once, found '{name}' twice", "Remove one of them.")
        given[name] = _parse_number(name, number)
    return {name: given.get(name, 0.0) for name in names}


def _parse_number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SearchError(WHERE, f"expected a number as the weight of '{name}', found '{text}'", FORM)
    return number
