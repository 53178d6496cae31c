"""Rounds of training, search and merge, each from the merge of the one before."""

from __future__ import annotations

from pydantic import model_validator

from aftermix.config.fields import ConfigSection, Count, Finite, Name


class IterateConfig(ConfigSection):
    """Rounds of `aftermix iterate` (docs/how-to/iterate.md)."""

    rounds: Count = 3
    """Most rounds; a round without a sure gain ends them before."""
    ranges: dict[Name, tuple[Finite, Finite]] = {}  # noqa: RUF012 - pydantic copies defaults
    """Bounds of the merge weight of an expert, by dataset; by default [0, 1]."""

    @model_validator(mode="after")
    def _ends_in_order(self) -> IterateConfig:
        for name, (low, high) in self.ranges.items():
            if low > high:
                raise ValueError(f"expected low <= high in the range of '{name}', found [{low:g}, {high:g}]")
        return self
