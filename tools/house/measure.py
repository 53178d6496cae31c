"""One number of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One number of the table: a count, or a share where `total` is given, with the places that it rests on."""

    key: str
    label: str
    count: int
    total: int | None = None
    goal: str = ""
    places: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        if self.total is None:
            return self.count
        return round(100 * self.count / self.total, 1) if self.total else 0.0

    @property
    def text(self) -> str:
        return f"{self.count}" if self.total is None else f"{self.value:.1f} % ({self.count} of {self.total})"
