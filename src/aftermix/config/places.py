"""Numbers that depend on the place in the model: one for all tensors, or rules of which the first that fits holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from aftermix.config.fields import ConfigSection, Finite
from aftermix.errors import ConfigError

NUMBER, RULES, ANCHORS = "[number]", "[rules]", "[anchors]"
"""Kinds of such a value, which pydantic adds to the place of a fault; no key of the file is called so."""


def _name_kind(value: Any) -> str:
    return RULES if isinstance(value, list | tuple | dict) else NUMBER


def _name_rule_kind(value: Any) -> str:
    return ANCHORS if isinstance(value, list | tuple) else NUMBER


def _collect_patterns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Anchors = Annotated[tuple[Finite, ...], Field(min_length=1)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_collect_patterns), Field(min_length=1)]


class PlaceRule(ConfigSection):
    """A number for the tensors that `match` fits."""

    match: Patterns | None = None
    """Patterns as in `merge.exclude`, one or several; left out, every tensor fits."""
    value: Annotated[Annotated[Finite, Tag(NUMBER)] | Annotated[Anchors, Tag(ANCHORS)], Discriminator(_name_rule_kind)]
    """The number; or a list, spread evenly from the first block to the last and interpolated between."""


def _collect_rules(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(entry, int | float | str) for entry in value):
        raise ValueError("expected one number or rules; numbers over the blocks are [{value: [0.2, 0.8]}]")
    return (value,) if isinstance(value, dict | PlaceRule) else value


def _refuse_no_share(value: Any) -> Any:
    for number in list_numbers(value):
        if not 0 < number <= 1:
            raise ValueError(f"expected numbers above 0 and at most 1, found {number:g}")
    return value


Rules = Annotated[tuple[PlaceRule, ...], BeforeValidator(_collect_rules), Field(min_length=1)]
PlacedNumber = Annotated[Annotated[Finite, Tag(NUMBER)] | Annotated[Rules, Tag(RULES)], Discriminator(_name_kind)]
"""A number for every tensor, or rules."""
PlacedShare = Annotated[PlacedNumber, AfterValidator(_refuse_no_share)]
"""The same, every number above 0 and at most 1."""
Weight = float | tuple[PlaceRule, ...]
"""The same as it is passed on."""


GivenWeight = float | Sequence[PlaceRule | Mapping[str, Any]]
"""The same as it is written in Python."""


def interpolate(anchors: Sequence[float], depth: float) -> float:
    """The value at `depth` (0 the first block, 1 the last) of numbers that are spread evenly over the blocks.

    Formula: with `s = depth * (n - 1)` and `i = floor(s)`, `(1 - (s - i)) a_i + (s - i) a_{i+1}`, as mergekit has it.

    >>> [interpolate([0.0, 1.0, 0.0], depth) for depth in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 0.0]
    """
    scaled = depth * (len(anchors) - 1)
    first = int(scaled)
    part = scaled - first
    return (1 - part) * anchors[first] + part * anchors[min(first + 1, len(anchors) - 1)]


def list_numbers(weight: Weight) -> list[float]:
    """Every number that stands in `weight`, in order."""
    if not isinstance(weight, tuple):
        return [weight]
    values = (rule.value for rule in weight)
    return [number for value in values for number in (value if isinstance(value, tuple) else (value,))]


def require_number(weight: Weight, *, where: str, who: str) -> float:
    """The weight as one number. Raises :class:`ConfigError` for rules, which `who` cannot use at the place `where`."""
    if isinstance(weight, tuple):
        raise ConfigError(where, f"depends on the place, and {who} takes one number", "Give one number.")
    return weight


def is_zero(weight: Weight) -> bool:
    """True for a weight that is 0 wherever it applies."""
    return not any(list_numbers(weight))


def dump_weight(weight: Weight) -> Any:
    """The weight as the file holds it."""
    if not isinstance(weight, tuple):
        return float(weight)
    return [_dump_rule(rule) for rule in weight]


def _dump_rule(rule: PlaceRule) -> dict[str, Any]:
    value = list(rule.value) if isinstance(rule.value, tuple) else rule.value
    if rule.match is None:
        return {"value": value}
    return {"match": rule.match[0] if len(rule.match) == 1 else list(rule.match), "value": value}


def describe_weight(weight: Weight, form: str = "g") -> str:
    """The weight as a person reads it; `form` is the format of its numbers.

    >>> rules = (PlaceRule(match="mlp", value=[0.2, 0.8]), PlaceRule(value=0.5))
    >>> describe_weight(rules), describe_weight(0.5)
    ('mlp 0.2 to 0.8, else 0.5', '0.5')
    """
    if not isinstance(weight, tuple):
        return format(weight, form)
    if len(weight) == 1 and weight[0].match is None:
        return _describe_value(weight[0].value, form)
    return ", ".join(f"{describe_match(rule)} {_describe_value(rule.value, form)}" for rule in weight)


def describe_match(rule: PlaceRule) -> str:
    """Patterns of a rule, or `else`."""
    return "else" if rule.match is None else " or ".join(rule.match)


def _describe_value(value: float | tuple[float, ...], form: str) -> str:
    numbers = value if isinstance(value, tuple) else (value,)
    return " to ".join(format(number, form) for number in numbers)
