"""The space of a search: an interval for each vector's weight, negative ones included, and the values of settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from aftermix.config import VectorConfig
from aftermix.config.places import list_dimensions
from aftermix.errors import SearchError
from aftermix.runs.trials import Setting, Settings, Weights, names_earlier_run, quote_setting

TOLERANCE = 1e-9
OBSERVED = ("base", "single")
"""Origins of points of a first design that a search looks at wherever they lie, and does not choose outside."""
DECIMALS = 12
"""Of values in steps, so that 0.05 + 2 * 0.05 is 0.15 in the file that makes the merge again."""


@dataclass(frozen=True)
class NumberRange:
    """Numbers from `low` to `high`, both among them, or with a `step` only `low`, `low + step`, ..."""

    low: float
    high: float
    step: float | None = None

    @property
    def top(self) -> float:
        """The largest value: `high`, or the last step that does not pass it.

        >>> NumberRange(0.1, 0.5, 0.15).top
        0.4
        """
        return self.high if self.step is None else self.nearest(self.high, down=True)

    def contains(self, value: Setting) -> bool:
        """Say if `value` is one of these numbers."""
        number = _read_number(value)
        return number is not None and abs(self.nearest(number) - number) <= TOLERANCE

    def nearest(self, value: Setting, *, down: bool = False) -> float:
        """The closest of these numbers (`down`: the closest that is not larger); the lowest for what is no number.

        >>> NumberRange(0.05, 0.5, 0.05).nearest(1 / 3), NumberRange(0.1, 0.9).nearest(2.0)
        (0.35, 0.9)
        """
        number = _read_number(value)
        inside = min(max(self.low if number is None else number, self.low), self.high)
        if self.step is None:
            return inside
        last = int((self.high - self.low) / self.step + TOLERANCE)
        steps = (inside - self.low) / self.step
        return round(self.low + min(int(steps + TOLERANCE) if down else round(steps), last) * self.step, DECIMALS)

    def __str__(self) -> str:
        """`[0.05, 0.5] by 0.05`"""
        return f"[{self.low:g}, {self.high:g}]" + (f" by {self.step:g}" if self.step is not None else "")


@dataclass(frozen=True)
class ChoiceSet:
    """One of `values`, which have no order among them."""

    values: tuple[Setting, ...]

    def contains(self, value: Setting) -> bool:
        """Say if `value` is one of them."""
        return value in self.values

    def nearest(self, value: Setting) -> Setting:
        """`value`, or the first choice if it is none of them."""
        return self.values[self.values.index(value)] if value in self.values else self.values[0]

    def __str__(self) -> str:
        """`rotation, (ja, math)`"""
        return ", ".join(format_setting(value) for value in self.values)


Dimension = NumberRange | ChoiceSet


def format_setting(value: Setting) -> str:
    """A setting as a person writes it.

    >>> format_setting(("ja", "math")), format_setting(0.30000000000000004), format_setting(True)
    ('(ja, math)', '0.3', 'true')
    """
    if isinstance(value, tuple):
        return f"({', '.join(value)})"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _read_number(value: Setting) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class SearchSpace:
    """The box of merge weights, continuous and never rounded, times the settings of the merge that are searched."""

    bounds: Mapping[str, tuple[float, float]]
    """Name of the weight -> (low, high); equal ends fix it. It is the vector's name, or that of a rule of its range."""
    instruction: tuple[str, ...] = ()
    """Vectors that carry instruction following rather than data."""
    settings: Mapping[str, Dimension] = field(default_factory=dict)
    """Name of the setting -> what it may be."""
    shares: tuple[str, ...] = ()
    """Settings that are shares of one whole: together at most 1."""
    own: Settings = field(default_factory=dict)
    """The settings that hold without a search: what is tried first."""
    vectors: Mapping[str, str] = field(default_factory=dict)
    """Name of a rule's weight -> its vector."""

    def __post_init__(self) -> None:
        if not self.bounds:
            raise SearchError("vectors", "expected at least one vector to weigh, found none", "Add one to `vectors:`.")

    @classmethod
    def from_vectors(cls, vectors: Mapping[str, VectorConfig]) -> SearchSpace:
        """The space of the weights in the file's `vectors:` section."""
        dimensions = list_dimensions(vectors)
        return cls(
            bounds={name: dimension.bounds for name, dimension in dimensions.items()},
            instruction=tuple(name for name, vector in vectors.items() if vector.role == "instruction"),
            vectors={name: dimension.vector for name, dimension in dimensions.items() if dimension.is_placed},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All weights, in the file's order."""
        return tuple(self.bounds)

    def find_vector(self, name: str) -> str:
        """The vector of the weight called `name`."""
        return self.vectors.get(name, name)

    @property
    def experts(self) -> tuple[str, ...]:
        """The vectors that carry data."""
        vectors = dict.fromkeys(map(self.find_vector, self.bounds))
        return tuple(vector for vector in vectors if vector not in self.instruction)

    @property
    def searched_weights(self) -> tuple[str, ...]:
        """The weights that are not fixed."""
        return tuple(name for name, (low, high) in self.bounds.items() if low < high)

    @property
    def held_weights(self) -> dict[str, float]:
        """The weights that a range with equal ends holds."""
        return {name: low for name, (low, high) in self.bounds.items() if low == high}

    @property
    def dimensions(self) -> int:
        """Count of the numbers and choices of a point of the space."""
        return len(self.searched_weights) + len(self.settings)

    def contains(self, weights: Weights, settings: Settings | None = None) -> bool:
        """Say if a point names exactly these weights and settings and lies within their bounds (both ends count)."""
        if weights.keys() != self.bounds.keys() or (settings or {}).keys() != self.settings.keys():
            return False
        inside = all(low <= weights[name] <= high for name, (low, high) in self.bounds.items())
        return inside and self._holds(settings or {})

    def observes(self, weights: Weights, settings: Settings) -> bool:
        """Say if a point names exactly these weights and settings, and lies here but for the ranges of the weights."""
        names_all = weights.keys() == self.bounds.keys() and settings.keys() == self.settings.keys()
        return names_all and self._holds(settings)

    def admits(self, weights: Weights, settings: Settings, *, origin: str | None) -> bool:
        """Say if a trial of this `origin` may lie here: base and single vectors, and those of an earlier run, may lie
        outside the ranges.
        """
        is_observed = origin in OBSERVED or names_earlier_run(origin)
        return self.observes(weights, settings) if is_observed else self.contains(weights, settings)

    def _holds(self, settings: Settings) -> bool:
        """Shares that were scaled down to a sum of 1 may lie below their range and between its steps."""
        scaled = bool(self.shares) and abs(self._sum_shares(settings) - 1) <= TOLERANCE
        if not self._sum_shares(settings) <= 1 + TOLERANCE:
            return False
        return all(
            0 < _read_float(settings[name]) <= kind.high
            if scaled and name in self.shares and isinstance(kind, NumberRange)
            else kind.contains(settings[name])
            for name, kind in self.settings.items()
        )

    def _sum_shares(self, settings: Settings) -> float:
        return math.fsum(_read_float(settings[name]) for name in self.shares)

    def scale_shares(self, settings: Settings) -> Settings:
        """`settings` with shares that sum above 1 scaled down to a sum of 1."""
        total = self._sum_shares(settings)
        if total <= 1:
            return settings
        return settings | {name: _read_float(settings[name]) / total for name in self.shares}

    def nearest(self, settings: Settings) -> Settings:
        """The closest settings within the ranges and on their steps."""
        return {name: kind.nearest(settings[name]) for name, kind in self.settings.items()}

    def choose_start(self) -> Settings:
        """The settings that hold without a search, as far as the space has them."""
        return self.scale_shares(self.nearest(self.own))

    def clip_weights(self, weights: Weights) -> Weights:
        """The nearest weights of the space.

        >>> SearchSpace({"it": (0.3, 1.0), "ja": (-1.0, 0.5)}).clip_weights({"it": 0.0, "ja": 0.75})
        {'it': 0.3, 'ja': 0.5}
        """
        return {name: min(max(weights[name], low), high) for name, (low, high) in self.bounds.items()}

    def __str__(self) -> str:
        """`it [0.3, 1], ja [0, 1], density [0.1, 0.9]`"""
        weights = [
            f"{name} {f'[{low:g}, {high:g}]' if low < high else f'{low:g}'}"
            for name, (low, high) in self.bounds.items()
        ]
        return ", ".join([*weights, *(f"{quote_setting(name)} {kind}" for name, kind in self.settings.items())])


def _read_float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
