"""The usable part of a YAML file beside its faults, so that one look tells those and what else is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aftermix.config.file import Config, find_meant_key, resolve_paths, translate_error
from aftermix.errors import Problem

Place = tuple[str | int, ...]
MOST_ROUNDS = 20
"""Taking something out may show another fault, which is not told: it is a consequence, or waits for the next look."""


@dataclass(frozen=True)
class PartialConfig:
    """The usable part of a file."""

    config: Config
    problems: tuple[Problem, ...]
    """Faults of the file itself."""
    written: frozenset[str]
    """Sections that the file has, usable or not."""


def parse_partial_config(values: Mapping[str, Any], *, where: str, folder: Path) -> PartialConfig:
    """Check `values` as the content of a file called `where`, and leave out what is wrong in it.

    A misspelt key that is close to one that is not there stands for it.
    """
    remaining: dict[str, Any] = deepcopy(dict(values))
    problems: tuple[Problem, ...] = ()
    config = Config()

    for number in range(MOST_ROUNDS):
        try:
            config = resolve_paths(Config.model_validate(remaining), folder.resolve())
        except ValidationError as error:
            details = error.errors()
            if number == 0:
                problems = tuple(translate_error(where, detail) for detail in details)
            # From the last place on: what is removed from a list moves what comes after it.
            for detail in sorted(details, key=_order_place, reverse=True):
                _mend_place(remaining, detail)
        else:
            break
    return PartialConfig(config, problems, frozenset(map(str, values)))


def _order_place(detail: Any) -> list[tuple[int, str]]:
    """Order by place, numbers of a list by their value."""
    return [(part, "") if isinstance(part, int) else (-1, part) for part in detail["loc"]]


def _mend_place(values: dict[str, Any], detail: Any) -> None:
    """Rename a misspelt key, or remove what `detail` is about; a fault of the whole file removes everything."""
    place: Place = detail["loc"]
    section, key = _find_place(values, place)
    if section is None:
        values.clear()
        return

    value = section.pop(key)
    meant = find_meant_key(place) if detail["type"] == "extra_forbidden" else None
    if meant is not None:
        section.setdefault(meant, value)


def _find_place(values: dict[str, Any], place: Sequence[str | int]) -> tuple[Any, Any]:
    """The innermost part of `place` that `values` has, as container and key; what names a choice of types has none."""
    container: Any = None
    key: Any = None
    inner: Any = values
    for part in place:
        inside = isinstance(inner, dict) and part in inner
        if inside or (isinstance(inner, list) and isinstance(part, int) and part < len(inner)):
            container, key, inner = inner, part, inner[part]
    return container, key
