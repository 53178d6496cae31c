"""mergekit's parameters: scalars, gradients over layers and values by part of the tensor's name, as one setting.

A parameter is looked up in scopes (the model, its slice, the recipe) in that order; within a scope the first condition
whose `filter` is part of the tensor's name decides, and none leads to the next scope.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aftermix.config.places import PlaceRule
from aftermix.errors import ConfigError

KINDS: dict[str, type] = {
    "weight": float,
    "density": float,
    "lambda": float,
    "normalize": bool,
    "rescale": bool,
    "int8_mask": bool,
    "t": float,
    "max_iter": int,
    "tol": float,
    "filter_wise": bool,
    "epsilon": float,
    "gamma": float,
    "select_topk": float,
    "nuslerp_flatten": bool,
    "nuslerp_row_wise": bool,
}
Scope = tuple[str, Mapping[str, Any]]
"""Its place in the file, and its parameters."""
Condition = tuple[str | None, Any]
"""Filter (None: every tensor) and value."""


PLACED = ("weight", "density", "t")
"""Parameters that may differ from tensor to tensor here."""


@dataclass(frozen=True)
class MergekitSetting:
    """One value for every tensor, or rules; except 0 for those whose name holds one of `zero_for`."""

    value: Any
    zero_for: tuple[str, ...] = ()

    @property
    def placed(self) -> Any:
        """The value, as rules where it is 0 for some tensors."""
        zeros = [PlaceRule(match=(write_pattern(filter_),), value=0.0) for filter_ in self.zero_for]
        return (*zeros, PlaceRule(value=self.value)) if zeros else self.value


def is_part_of_names(text: str) -> bool:
    """Say if mergekit's filter and a pattern of `merge.exclude` read `text` as the same: a part of a name.

    >>> [is_part_of_names(text) for text in ("mlp", "re:mlp", "kind:head", "*.mlp", " ")]
    [True, False, False, False, False]
    """
    return bool(text.strip()) and not text.startswith(("re:", "kind:")) and not any(mark in text for mark in "*?[")


def settle(name: str, scopes: Sequence[Scope], *, default: Any = None) -> MergekitSetting:
    """The value of parameter `name`; `default` where no scope sets it, and None makes it required.

    Raises :class:`ConfigError` for a value that differs between layers, or between tensors by more than being 0 for
    some.
    """
    conditions = [
        pair for where, scope in scopes if name in scope for pair in _read_conditions(name, where, scope[name])
    ]
    decided = next((place for place, (filter_, _) in enumerate(conditions) if filter_ is None), None)
    if decided is not None:
        conditions = conditions[: decided + 1]
    elif default is not None:
        conditions.append((None, default))
    else:
        place = f"{scopes[0][0]}.{name}"
        remedy = f"Set `{name}` in the model's parameters, or in the recipe's for all models."
        raise ConfigError(place, "is required, and not set for every tensor", remedy)

    value = conditions[-1][1]
    filters = tuple(str(filter_) for filter_, other in conditions[:-1] if other != value)
    if not filters and not isinstance(value, tuple):
        return MergekitSetting(value)

    # A weight that is 0 for some tensors and one number for the others may mean tensors that are excluded.
    zeros = all(other in (0, value) for _, other in conditions) and len(filters) == len(conditions) - 1
    if name == "weight" and zeros and not isinstance(value, tuple):
        return MergekitSetting(value, filters)
    if name in PLACED:
        return MergekitSetting(tuple(_write_rule(condition) for condition in conditions))
    found = f"has another value for tensors with {', '.join(map(repr, filters))} in their name"
    raise ConfigError(f"{scopes[0][0]}.{name}", found, f"Give one `{name}`: it is the same for all tensors here.")


def write_pattern(filter_: str) -> str:
    """A filter of mergekit as a pattern of `match` and `exclude`.

    >>> write_pattern("mlp"), write_pattern("layers.[0]")
    ('mlp', 're:layers\\\\.\\\\[0\\\\]')
    """
    return filter_ if is_part_of_names(filter_) else f"re:{re.escape(filter_)}"


def _write_rule(condition: Condition) -> PlaceRule:
    filter_, value = condition
    return PlaceRule(match=None if filter_ is None else (write_pattern(filter_),), value=value)


def _read_conditions(name: str, where: str, setting: Any) -> list[Condition]:
    """The conditions of one scope, in order, up to and including the first for every tensor."""
    where = f"{where}.{name}"
    entries = [setting] if isinstance(setting, dict) else setting
    if not isinstance(entries, list):
        return [(None, _read_scalar(name, where, entries))]
    if not any(isinstance(entry, dict) for entry in entries):
        return [(None, _read_gradient(name, where, entries))] if entries else []
    return [_read_condition(name, f"{where}[{place}]", entry) for place, entry in enumerate(entries)]


def _read_condition(name: str, where: str, entry: Any) -> Condition:
    if not isinstance(entry, dict) or "value" not in entry or set(entry) - {"filter", "value"}:
        raise ConfigError(where, f"expected `filter` and `value`, found {entry!r}", "Write {filter: mlp, value: 0.5}.")
    filter_ = entry.get("filter")
    if filter_ is not None and not isinstance(filter_, str):
        raise ConfigError(f"{where}.filter", f"expected a part of a name, found {filter_!r}", "Write it as text.")
    value = entry["value"]
    settled = _read_gradient(name, where, value) if isinstance(value, list) else _read_scalar(name, where, value)
    return None if filter_ in (None, "*") else filter_, settled


def _read_gradient(name: str, where: str, gradient: list[Any]) -> Any:
    """A number, or the several that are interpolated over the layers."""
    values = tuple(_read_scalar(name, where, value) for value in gradient)
    if len(set(values)) == 1:
        return values[0]
    if name not in PLACED or not values:
        found = f"is a gradient over the layers ({gradient})"
        raise ConfigError(where, found, f"Give one `{name}`: it is the same for all layers here.")
    return values


def _read_scalar(name: str, where: str, value: Any) -> Any:
    kind, settled = KINDS[name], math.nan
    if isinstance(value, str | int | float):
        with suppress(ValidationError):
            settled = TypeAdapter(kind).validate_python(value)
        if math.isfinite(settled):
            return settled
    raise ConfigError(
        where, f"expected a {'true or false' if kind is bool else 'number'}, found {value!r}", "Correct it."
    )
