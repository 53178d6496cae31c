"""Records of `landscape.json`, what surrogates promise of all mixtures, and of `cosines.json`."""

from __future__ import annotations

from pydantic import Field

from aftermix.runs.json_record import Finite, RunRecord

LANDSCAPE_FILE = "landscape.json"
COSINES_FILE = "cosines.json"
UTILITY = "utility"

Row = tuple[Finite, ...]
Values = tuple[Finite | None, ...]
"""One value a quantity, the utility first; null where an expression has none."""


class SurfaceRecord(RunRecord):
    """Mixtures that cover the simplex."""

    shares: tuple[Row, ...]
    values: tuple[Values, ...]


class SliceRecord(RunRecord):
    """The line from the optimum along one domain, the others in proportion, fixed shares apart."""

    domain: int
    shares: Row
    values: tuple[Values, ...]
    low: tuple[Values, ...]
    high: tuple[Values, ...]
    near: tuple[int, ...]
    """Measured points near the line."""


class MeasuredPointRecord(RunRecord):
    """A point that was merged and measured on search items."""

    trial: int
    shares: Row
    values: Values


class ExpectedMixtureRecord(RunRecord):
    """A mixture with what is expected of it."""

    name: str
    shares: Row
    values: Values


class LandscapeRecord(RunRecord):
    """`landscape.json`."""

    domains: tuple[str, ...]
    capabilities: tuple[str, ...]
    low: Row
    high: Row
    measured: tuple[MeasuredPointRecord, ...]
    optimum: ExpectedMixtureRecord
    winner: ExpectedMixtureRecord
    surface: SurfaceRecord | None
    slices: tuple[SliceRecord, ...]

    @property
    def quantities(self) -> tuple[str, ...]:
        """Utility and capabilities."""
        return (UTILITY, *self.capabilities)


class CosinesRecord(RunRecord):
    """`cosines.json`: angles between the vectors; null for a vector of 0."""

    vectors: tuple[str, ...] = Field(min_length=1)
    cosines: tuple[Values, ...]
