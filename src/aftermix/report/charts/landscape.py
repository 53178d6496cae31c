"""Expectations of the surrogates over all mixtures, from `landscape.json`, and the angles between vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.report.charts.barycentric import TRIANGLE, find_allowed_corners, project_shares
from aftermix.report.number_format import RAW, ScoreScale, choose_scale
from aftermix.runs.json_record import read_record
from aftermix.runs.landscape_records import COSINES_FILE, LANDSCAPE_FILE, CosinesRecord, LandscapeRecord, Values

# N measured points, C candidates, K domains, Q quantities

LEAST_AREA = 1e-4
"""Of the allowed part of the triangle; one that is smaller is a line."""

Floats = NDArray[np.float64]


def choose_quantity_scale(landscape: LandscapeRecord, quantity: int) -> ScoreScale:
    """Unit of a quantity: the utility as it is, scores in points where all are shares."""
    scores = [value for point in landscape.measured for value in point.values[1:] if value is not None]
    return choose_scale(scores) if quantity else RAW


def is_triangle(landscape: LandscapeRecord) -> bool:
    """True where there are three domains and a surface of mixtures is allowed."""
    if len(landscape.domains) != len(TRIANGLE) or landscape.surface is None:
        return False

    # The area of a polygon from its corners, by the shoelace formula.
    x_V, y_V = project_shares(find_allowed_corners(np.array(landscape.low), np.array(landscape.high)), TRIANGLE).T
    return bool(abs(x_V @ np.roll(y_V, 1) - y_V @ np.roll(x_V, 1)) / 2 > LEAST_AREA)


def read_landscape(run: Path) -> LandscapeRecord | None:
    """The landscape of a finished mixture run, if it was written."""
    return read_record(run / LANDSCAPE_FILE, LandscapeRecord)


def read_cosines(run: Path) -> CosinesRecord | None:
    """The angles between the vectors of a run, if they were written."""
    return read_record(run / COSINES_FILE, CosinesRecord)


def stack_rows(rows: tuple[Values, ...]) -> Floats:
    """Rows as float64; null as NaN."""
    return np.array(rows, dtype=np.float64)
