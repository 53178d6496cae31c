"""A scorer of the user's own that is handed over as a function: `aftermix.search(pool, function=score, items=...)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aftermix.errors import ConfigError


@contextmanager
def take_function(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Options in which a callable `function`, and `items` that are its own, have become a name that the job knows.

    `items` is then a function or a mapping, task -> ids; numbers of items, which the same key means in the file, go
    with `evaluate={"items": {...}}`. The function is known within this block. Raises :class:`ConfigError` for items
    without a function to score them.
    """
    named = dict(options)
    items = named.get("items")
    is_own = callable(items) or (isinstance(items, Mapping) and any(map(_is_list, items.values())))
    if not callable(named.get("function")):
        if is_own:
            found = "expected numbers of items, as `{search: 100}`, found items of one's own"
            raise ConfigError("items", found, "Hand over `function=`, too, or define `items()` in its file.")
        yield named
        return
    from aftermix.evaluation.own.function import GivenFunction, give_function

    own = named.pop("items") if is_own else None
    with give_function(GivenFunction(named["function"], own)) as key:
        yield {**named, "function": key}


def _is_list(value: Any) -> bool:
    return not isinstance(value, int | float | str | bytes) and hasattr(value, "__iter__")
