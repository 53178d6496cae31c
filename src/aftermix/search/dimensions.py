"""What one setting of a merge may be in a search: a number of an interval, or one of several choices."""

from __future__ import annotations

from dataclasses import dataclass

from aftermix.runs.trials import Setting

TOLERANCE = 1e-9
DECIMALS = 12
"""Of values in steps, so that 0.05 + 2 * 0.05 is 0.15 in the file that makes the merge again."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them, or with a `step` only `low`, `low + step`, ..."""

    low: float
    high: float
    step: float | None = None

    @property
    def top(self) -> float:
        """The largest value: `high`, or the last step that does not pass it.

        >>> Range(0.1, 0.5, 0.15).top
        0.4
        """
        return self.high if self.step is None else self.nearest(self.high, down=True)

    def contains(self, value: Setting) -> bool:
        """Whether `value` is one of these numbers."""
        number = _number(value)
        return number is not None and abs(self.nearest(number) - number) <= TOLERANCE

    def nearest(self, value: Setting, *, down: bool = False) -> float:
        """The closest of these numbers (`down`: the closest that is not larger); the lowest for what is no number.

        >>> Range(0.05, 0.5, 0.05).nearest(1 / 3), Range(0.1, 0.9).nearest(2.0)
        (0.35, 0.9)
        """
        number = _number(value)
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
class Choices:
    """One of `values`, which have no order among them."""

    values: tuple[Setting, ...]

    def contains(self, value: Setting) -> bool:
        """Whether `value` is one of them."""
        return value in self.values

    def nearest(self, value: Setting) -> Setting:
        """`value`, or the first choice if it is none of them."""
        return self.values[self.values.index(value)] if value in self.values else self.values[0]

    def __str__(self) -> str:
        """`rotation, (ja, math)`"""
        return ", ".join(setting_text(value) for value in self.values)


Dimension = Range | Choices


def setting_text(value: Setting) -> str:
    """A setting as a person writes it.

    >>> setting_text(("ja", "math")), setting_text(0.30000000000000004), setting_text(True)
    ('(ja, math)', '0.3', 'true')
    """
    if isinstance(value, tuple):
        return f"({', '.join(value)})"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Setting) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
