"""Numbers as text, so that every table and chart of a report writes them alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Scale:
    """Scores times `factor`, with `decimals`: points from 0 to 100 where every score is a share, else as they are."""

    factor: float
    decimals: int
    unit: str
    explanation: str

    def value(self, score: float) -> float:
        """The score in the report's unit, for a chart's axis."""
        return score * self.factor

    def text(self, score: float) -> str:
        """`61.3`"""
        return _minus(f"{_no_negative_zero(self.value(score), self.decimals):.{self.decimals}f}")

    def signed(self, score: float) -> str:
        """`+3.2`, `0.0` or `−0.4`"""
        rounded = _no_negative_zero(self.value(score), self.decimals)
        return _minus(f"{rounded:{'+' if rounded else ''}.{self.decimals}f}")

    def between(self, interval: tuple[float, float] | None) -> str:
        """`58.9–63.6`, or nothing; `to` keeps a negative bound readable."""
        return _joined([self.text(bound) for bound in interval]) if interval else ""

    def signed_between(self, interval: tuple[float, float] | None) -> str:
        """`+1.1 to +5.3`, or nothing."""
        return " to ".join(self.signed(bound) for bound in interval) if interval else ""


POINTS = Scale(100.0, 1, "points", "Scores are in points from 0 to 100, with one decimal.")
RAW = Scale(1.0, 3, "", "Scores are in the unit of each task's metric, with three decimals; higher is better.")


def scale_for(scores: Iterable[float]) -> Scale:
    """Points when all scores are shares in [0, 1], else raw scores: a log-likelihood is no percentage."""
    return POINTS if all(0.0 <= score <= 1.0 for score in scores) else RAW


def weight(value: float) -> str:
    """A merge weight with two decimals.

    >>> weight(-0.001), weight(0.625), weight(-0.3)
    ('0.00', '0.62', '−0.30')
    """
    return _minus(f"{_no_negative_zero(value, 2):.2f}")


def setting(value: object) -> str:
    """A setting of the merge as a person writes it.

    >>> setting(1 / 3), setting(("ja", "math")), setting(True), setting("rotation")
    ('0.333', '(ja, math)', 'true', 'rotation')
    """
    if isinstance(value, tuple | list):
        return f"({', '.join(map(str, value))})"
    return str(value).lower() if isinstance(value, bool) else f"{value:.3g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """A share as a percentage with one decimal.

    >>> percent(0.4)
    '40.0 %'
    """
    return f"{100 * share:.1f} %"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "trial"), count(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tokens(number: float | None) -> str:
    """A token count, short.

    >>> tokens(1.0e9), tokens(25_300_000), tokens(812), tokens(None)
    ('1.00 B', '25.3 M', '812', '')
    """
    if number is None:
        return ""
    for size, letter, decimals in ((1e12, "T", 2), (1e9, "B", 2), (1e6, "M", 1), (1e3, "K", 1)):
        if number >= size:
            return f"{number / size:.{decimals}f} {letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A wall time to a useful precision.

    >>> duration(0.0042), duration(12.34), duration(754), duration(9000)
    ('4.2 ms', '12.3 s', '12 min 34 s', '2 h 30 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shorten(name: str, limit: int = 24) -> str:
    """`name` with its middle left out when it is longer than `limit` characters; both ends tell names apart.

    >>> shorten("instruction-tuned-sibling", 11)
    'instr…bling'
    """
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 2
    return f"{name[: limit - 1 - tail]}…{name[-tail:]}"


def _minus(text: str) -> str:
    return text.replace("-", MINUS)


def _no_negative_zero(value: float, decimals: int) -> float:
    return round(value, decimals) + 0.0


def _joined(parts: list[str]) -> str:
    return (" to " if any(MINUS in part for part in parts) else DASH).join(parts)
