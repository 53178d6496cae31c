"""Expectations of the surrogates over all mixtures, from `landscape.json`, and the angles between vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aftermix.report.charts.barycentric import TRIANGLE, find_allowed_corners, project_shares
from aftermix.report.number_format import RAW, ScoreScale, choose_scale
from aftermix.runs.reader import read_record
from aftermix.runs.records import Finite, RunRecord

# N measured points, C candidates, K domains, Q quantities

LANDSCAPE = "landscape.json"
COSINES = "cosines.json"
UTILITY = "utility"
LEAST_AREA = 1e-4
"""Of the allowed part of the triangle; one that is smaller is a line."""

Floats = NDArray[np.float64]
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
    """Content of `landscape.json`."""

    domains: tuple[str, ...]
    capabilities: tuple[str, ...]
    low: Row
    high: Row
    measured: tuple[MeasuredPointRecord, ...]
    optimum: ExpectedMixtureRecord
    winner: ExpectedMixtureRecord
    surface: SurfaceRecord | None = None
    slices: tuple[SliceRecord, ...] = ()

    @property
    def quantities(self) -> tuple[str, ...]:
        """Utility and capabilities."""
        return (UTILITY, *self.capabilities)

    def choose_scale(self, quantity: int) -> ScoreScale:
        """Unit of a quantity: the utility as it is, scores in points where all are shares."""
        scores = [value for point in self.measured for value in point.values[1:] if value is not None]
        return choose_scale(scores) if quantity else RAW

    @property
    def is_triangle(self) -> bool:
        """True where there are three domains and a surface of mixtures is allowed."""
        if len(self.domains) != len(TRIANGLE) or self.surface is None:
            return False

        # The area of a polygon from its corners, by the shoelace formula.
        x_V, y_V = project_shares(find_allowed_corners(np.array(self.low), np.array(self.high)), TRIANGLE).T
        return bool(abs(x_V @ np.roll(y_V, 1) - y_V @ np.roll(x_V, 1)) / 2 > LEAST_AREA)


class CosinesRecord(RunRecord):
    """Content of `cosines.json`: angles between the vectors; null for a vector of 0."""

    vectors: tuple[str, ...] = Field(min_length=1)
    cosines: tuple[Values, ...]


def read_landscape(run: Path) -> LandscapeRecord | None:
    """The landscape of a finished mixture run, if it was written."""
    return read_record(run / LANDSCAPE, LandscapeRecord)


def read_cosines(run: Path) -> CosinesRecord | None:
    """The angles between the vectors of a run, if they were written."""
    return read_record(run / COSINES, CosinesRecord)


def stack_rows(rows: tuple[Values, ...]) -> Floats:
    """Rows as float64; null as NaN."""
    return np.array(rows, dtype=np.float64)
