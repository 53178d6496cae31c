"""Merge weights that a user names: as `ja=0.3,math=0.5` on the command line, as a mapping in Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from aftermix.errors import SearchError, ask_meant
from aftermix.search.space import SearchSpace

WHERE = "--weights"
FORM = "Write NAME=NUMBER, separated by commas, e.g. ja=0.3,math=0.5."


def parse_weights(text: str) -> dict[str, float]:
    """The weights that `text` names.

    Raises :class:`SearchError` for a part that is not `NAME=NUMBER`, a number that is not finite, and a vector that is
    named twice.

    >>> parse_weights("ja=0.3, math=-1")
    {'ja': 0.3, 'math': -1.0}
    """
    given: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise SearchError(WHERE, f"expected NAME=NUMBER, found '{part.strip()}'", FORM)
        if name in given:
            raise SearchError(WHERE, f"expected each vector once, found '{name}' twice", "Remove one of them.")
        given[name] = _parse_number(name, number)
    return given


def complete_weights(given: Mapping[str, float], vectors: Iterable[str], *, where: str = WHERE) -> dict[str, float]:
    """A weight for each of `vectors`; one that is not `given` weighs 0.

    Raises :class:`SearchError` for a vector that the run has not, and for a weight that is no finite number.

    >>> complete_weights({"math": 0.5}, ["ja", "math"])
    {'ja': 0.0, 'math': 0.5}
    """
    names = list(vectors)
    for name, weight in given.items():
        if name not in names:
            found = f"expected a vector of the run ({', '.join(names)}), found '{name}'"
            raise SearchError(where, found, ask_meant("Correct the name.", name, names))
        if not math.isfinite(weight):
            raise SearchError(where, f"expected a number as the weight of '{name}', found '{weight}'", FORM)
    return {name: float(given.get(name, 0.0)) for name in names}


def complete_point(given: Mapping[str, float], space: SearchSpace) -> dict[str, float]:
    """A number for each weight of `space`; a vector whose range has rules gives its own to all of them.

    One that is not named weighs what a range with equal ends holds it at, else 0. Raises as :func:`complete_weights`
    does.
    """
    rules = {vector: [name for name in space.vectors if space.vectors[name] == vector] for vector in given}
    whole = {name: given[vector] for vector, names in rules.items() for name in names}
    own = {name: weight for name, weight in given.items() if not rules[name]}
    return complete_weights(space.held_weights | whole | own, space.names)


def refuse_released(weights: Mapping[str, float], space: SearchSpace) -> None:
    """Raise :class:`SearchError` where one of `weights` is not what `space` holds it at: no merge was run there."""
    for name, held in space.held_weights.items():
        if weights[name] != held:
            found = f"expected {held:g}, at which every merge of the run has '{name}', found {weights[name]:g}"
            raise SearchError(WHERE, found, "Leave it out; of a vector with rules, name the others.")


def _parse_number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SearchError(WHERE, f"expected a number as the weight of '{name}', found '{text}'", FORM)
    return number
