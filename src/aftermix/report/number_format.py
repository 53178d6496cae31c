"""Numbers as text, so that every table and chart of a report writes them alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class ScoreScale:
    """Scores times `factor`, with `decimals`: points from 0 to 100 where every score is a share, else as they are."""

    factor: float
    decimals: int
    unit: str
    explanation: str

    def convert(self, score: float) -> float:
        """The score in the report's unit, for a chart's axis."""
        return score * self.factor

    def format(self, score: float) -> str:
        """`61.3`"""
        return _replace_hyphens(f"{_round_without_sign_of_zero(self.convert(score), self.decimals):.{self.decimals}f}")

    def format_plain(self, score: float, interval: tuple[float, float] | None = None) -> str:
        """`61.3 [58.9, 63.6]`, in ASCII for a terminal; without an interval the score alone."""
        shown = [
            f"{_round_without_sign_of_zero(self.convert(each), self.decimals):.{self.decimals}f}"
            for each in (score, *(interval or ()))
        ]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]" if interval else shown[0]

    def format_signed(self, score: float) -> str:
        """`+3.2`, `0.0` or `−0.4`"""
        rounded = _round_without_sign_of_zero(self.convert(score), self.decimals)
        return _replace_hyphens(f"{rounded:{'+' if rounded else ''}.{self.decimals}f}")

    def format_interval(self, interval: tuple[float, float] | None) -> str:
        """`58.9–63.6`, or nothing; `to` keeps a negative bound readable."""
        return _join_bounds([self.format(bound) for bound in interval]) if interval else ""

    def format_signed_interval(self, interval: tuple[float, float] | None) -> str:
        """`+1.1 to +5.3`, or nothing."""
        return " to ".join(self.format_signed(bound) for bound in interval) if interval else ""


POINTS = ScoreScale(100.0, 1, "points", "Scores are in points from 0 to 100, with one decimal.")
RAW = ScoreScale(1.0, 3, "", "Scores are in the unit of each task's metric, with three decimals; higher is better.")


def choose_scale(scores: Iterable[float]) -> ScoreScale:
    """Points when all scores are shares in [0, 1], else raw scores: a log-likelihood is no percentage."""
    return POINTS if all(0.0 <= score <= 1.0 for score in scores) else RAW


def format_weight(value: float) -> str:
    """A merge weight with two decimals.

    >>> format_weight(-0.001), format_weight(0.625), format_weight(-0.3)
    ('0.00', '0.62', '−0.30')
    """
    return _replace_hyphens(f"{_round_without_sign_of_zero(value, 2):.2f}")


def format_setting(value: object) -> str:
    """A setting of the merge as a person writes it.

    >>> format_setting(1 / 3), format_setting(("ja", "math")), format_setting(True), format_setting("rotation")
    ('0.333', '(ja, math)', 'true', 'rotation')
    """
    if isinstance(value, tuple | list):
        return f"({', '.join(map(str, value))})"
    return str(value).lower() if isinstance(value, bool) else f"{value:.3g}" if isinstance(value, float) else str(value)


def format_percent(share: float) -> str:
    """A share as a percentage with one decimal.

    >>> format_percent(0.4)
    '40.0 %'
    """
    return f"{100 * share:.1f} %"


def format_count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> format_count(1, "trial"), format_count(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_tokens(number: float | None) -> str:
    """A token count, short.

    >>> format_tokens(1.0e9), format_tokens(25_300_000), format_tokens(812), format_tokens(None)
    ('1.00 B', '25.3 M', '812', '')
    """
    if number is None:
        return ""
    for size, letter, decimals in ((1e12, "T", 2), (1e9, "B", 2), (1e6, "M", 1), (1e3, "K", 1)):
        if number >= size:
            return f"{number / size:.{decimals}f} {letter}"
    return f"{number:.0f}"


def format_duration(seconds: float) -> str:
    """A wall time to a useful precision.

    >>> format_duration(0.0042), format_duration(12.34), format_duration(754), format_duration(9000)
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


def _replace_hyphens(text: str) -> str:
    return text.replace("-", MINUS)


def _round_without_sign_of_zero(value: float, decimals: int) -> float:
    return round(value, decimals) + 0.0


def _join_bounds(parts: list[str]) -> str:
    return (" to " if any(MINUS in part for part in parts) else DASH).join(parts)
