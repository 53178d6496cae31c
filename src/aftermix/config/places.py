"""Numbers that depend on the place in the model: one for all tensors, or rules of which the first that fits holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from aftermix.config.fields import ConfigSection, Finite
from aftermix.errors import ConfigError

NUMBER, RULES, ANCHORS, PAIR = "[number]", "[rules]", "[anchors]", "[pair]"
"""Kinds of such a value, which pydantic adds to the place of a fault; no key of the file is called so."""


def _name_kind(value: Any) -> str:
    return RULES if isinstance(value, list | tuple | dict) else NUMBER


def _name_rule_kind(value: Any) -> str:
    return ANCHORS if isinstance(value, list | tuple) else NUMBER


def _name_bounds_kind(value: Any) -> str:
    return PAIR if isinstance(value, list | tuple) else NUMBER


def _name_range_kind(value: Any) -> str:
    """A list of numbers is a pair; a rule, or a list with one among its entries, are rules."""
    entries = value if isinstance(value, list | tuple) else [value]
    return RULES if any(isinstance(entry, dict | RangeRule) for entry in entries) else PAIR


def _refuse_reversed(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not low <= high:
        raise ValueError(f"range must be [low, high] with low <= high, found [{low:g}, {high:g}]")
    return value


def _collect_patterns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Anchors = Annotated[tuple[Finite, ...], Field(min_length=1)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_collect_patterns), Field(min_length=1)]
Interval = Annotated[tuple[Finite, Finite], AfterValidator(_refuse_reversed)]


class PlaceRule(ConfigSection):
    """A number for the tensors that `match` fits."""

    match: Patterns | None = None
    """Patterns as in `merge.exclude`, one or several; left out, every tensor fits."""
    value: Annotated[Annotated[Finite, Tag(NUMBER)] | Annotated[Anchors, Tag(ANCHORS)], Discriminator(_name_rule_kind)]
    """The number; or a list, spread evenly from the first block to the last and interpolated between."""


class RangeRule(ConfigSection):
    """Bounds of a weight for the tensors that `match` fits."""

    match: Patterns | None = None
    """Patterns as in `merge.exclude`, one or several; left out, every tensor fits."""
    value: Annotated[Annotated[Finite, Tag(NUMBER)] | Annotated[Interval, Tag(PAIR)], Discriminator(_name_bounds_kind)]
    """The number that the weight keeps; or the ends between which it is searched."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends, equal where the weight is fixed."""
        return self.value if isinstance(self.value, tuple) else (self.value, self.value)


def _collect_rules(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(entry, int | float | str) for entry in value):
        raise ValueError("expected one number or rules; numbers over the blocks are [{value: [0.2, 0.8]}]")
    return (value,) if isinstance(value, dict | PlaceRule) else value


def _collect_range_rules(value: Any) -> Any:
    return (value,) if isinstance(value, dict | RangeRule) else value


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
RangeRules = Annotated[tuple[RangeRule, ...], BeforeValidator(_collect_range_rules), Field(min_length=1)]
PlacedRange = Annotated[
    Annotated[Interval, Tag(PAIR)] | Annotated[RangeRules, Tag(RULES)], Discriminator(_name_range_kind)
]
"""Two ends for every tensor, or rules."""
Weight = float | tuple[PlaceRule, ...]
"""The number or rules as they are passed on."""


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


def describe_match(rule: PlaceRule | RangeRule) -> str:
    """Patterns of a rule, or `else`."""
    return "else" if rule.match is None else " or ".join(rule.match)


def _describe_value(value: float | tuple[float, ...], form: str) -> str:
    numbers = value if isinstance(value, tuple) else (value,)
    return " to ".join(format(number, form) for number in numbers)


class Weighed(Protocol):
    """A vector as far as its weight is searched."""

    @property
    def range(self) -> tuple[float, float] | tuple[RangeRule, ...] | None:
        """Ends of the weight, or rules, or nothing."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest end."""


@dataclass(frozen=True)
class WeightDimension:
    """A weight of a search: that of a vector, or of one rule of a vector."""

    vector: str
    bounds: tuple[float, float]
    """Both ends, equal where it is fixed."""
    match: Patterns | None = None
    """Patterns of the rule; None for a whole vector, and for a rule that every tensor fits."""
    is_placed: bool = False
    """True for a rule."""


def list_dimensions(vectors: Mapping[str, Weighed]) -> dict[str, WeightDimension]:
    """The weights of a search over `vectors`, by name, in the file's order.

    A weight is called as its vector. That of a rule is called VECTOR/PATTERN, with `+` between patterns, `else` where
    there is none, and the place among the rules where two would have one name; no vector's name holds a slash.

    >>> from aftermix.config import VectorConfig
    >>> from aftermix.config.places import list_dimensions
    >>> rules = [{"match": "mlp", "value": [0.2, 0.8]}, {"value": 0.5}]
    >>> ja, it = VectorConfig(model="ja", range=rules), VectorConfig(model="it", range=(0.3, 1))
    >>> {name: dimension.bounds for name, dimension in list_dimensions({"it": it, "ja": ja}).items()}
    {'it': (0.3, 1.0), 'ja/mlp': (0.2, 0.8), 'ja/else': (0.5, 0.5)}
    """
    dimensions = {}
    for vector, weighed in vectors.items():
        rules = list_range_rules(weighed.range)
        if not rules:
            dimensions[vector] = WeightDimension(vector, weighed.bounds)
        for name, rule in zip(_name_rules(vector, rules), rules, strict=True):
            dimensions[name] = WeightDimension(vector, rule.bounds, rule.match, is_placed=True)
    return dimensions


def list_range_rules(given: tuple[float, float] | tuple[RangeRule, ...] | None) -> tuple[RangeRule, ...]:
    """The rules of a range; none for two ends."""
    return tuple(entry for entry in given or () if isinstance(entry, RangeRule))


def _name_rules(vector: str, rules: Sequence[RangeRule]) -> Iterator[str]:
    names = [f"{vector}/{'else' if rule.match is None else _join_patterns(rule.match)}" for rule in rules]
    counts = Counter(names)
    for place, name in enumerate(names, start=1):
        yield name if counts[name] == 1 else f"{name}/{place}"


def _join_patterns(patterns: Sequence[str]) -> str:
    """Patterns without what `NAME=NUMBER, ...` is written with, and without slashes."""
    return "+".join(re.sub(r"[\s,=/]+", "_", pattern) for pattern in patterns)


def place_weights(vectors: Mapping[str, Weighed], weights: Mapping[str, float]) -> dict[str, Weight]:
    """The weight of each vector at a point of a search: its number, or its rules with their numbers.

    A vector that has neither is left out.

    >>> from aftermix.config import VectorConfig
    >>> from aftermix.config.places import describe_weight, place_weights
    >>> ja = VectorConfig(model="ja", range=[{"match": "mlp", "value": [0.2, 0.8]}, {"value": 0.5}])
    >>> describe_weight(place_weights({"ja": ja}, {"ja/mlp": 0.3, "ja/else": 0.5})["ja"])
    'mlp 0.3, else 0.5'
    """
    rules: dict[str, list[PlaceRule]] = {}
    for name, dimension in list_dimensions(vectors).items():
        if dimension.is_placed and name in weights:
            rules.setdefault(dimension.vector, []).append(PlaceRule(match=dimension.match, value=weights[name]))
    placed: dict[str, Weight] = {}
    for vector in vectors:
        if vector in weights:
            placed[vector] = weights[vector]
        elif vector in rules:
            placed[vector] = tuple(rules[vector])
    return placed


def describe_range(given: tuple[float, float] | tuple[RangeRule, ...]) -> str:
    """A range as a person reads it.

    >>> describe_range((0.3, 1.0)), describe_range((RangeRule(match="mlp", value=(0.2, 0.8)), RangeRule(value=0.5)))
    ('[0.3, 1]', 'mlp [0.2, 0.8], else 0.5')
    """
    rules = list_range_rules(given)
    if rules:
        return ", ".join(f"{describe_match(rule)} {_describe_bounds(rule.bounds)}" for rule in rules)
    low, high = (end for end in given if not isinstance(end, RangeRule))
    return f"[{low:g}, {high:g}]"


def _describe_bounds(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"[{low:g}, {high:g}]" if low < high else f"{low:g}"
