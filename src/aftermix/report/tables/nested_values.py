"""Nested values as rows: a lock file of any shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested values as (dotted key, text) pairs, for a lock file of any shape.

    >>> flatten({"seeds": {"search": 0}, "created": "2026-01-01"})
    (('seeds.search', '0'), ('created', '2026-01-01'))
    """
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            pairs += flatten(value, name)
        elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
            pairs += flatten({str(place): part for place, part in enumerate(value)}, name)
        else:
            pairs.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return tuple(pairs)
