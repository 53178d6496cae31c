"""Barycentric projections, the section of a landscape, and its pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.errors import AftermixError
from aftermix.report.charts.barycentric import (
    TETRAHEDRON,
    TRIANGLE,
    find_allowed_corners,
    invert_projection,
    project_shares,
)
from aftermix.report.charts.landscape import read_cosines, read_landscape
from aftermix.report.number_format import MINUS
from aftermix.report.sections.landscape import build_landscape_section
from aftermix.runs.landscape_records import CosinesRecord, LandscapeRecord

SHARES = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda values: np.array(values))


@pytest.mark.parametrize("corners", [TRIANGLE, TETRAHEDRON])
def test_domains_alone_are_corners_of_equal_distance_and_the_uniform_mixture_is_the_centroid(corners: Any) -> None:
    count = len(corners)
    np.testing.assert_allclose(project_shares(np.eye(count), corners), corners)
    sides = [np.linalg.norm(one - other) for place, one in enumerate(corners) for other in corners[:place]]
    np.testing.assert_allclose(sides, 1)
    uniform = np.full((1, count), 1 / count)
    np.testing.assert_allclose(project_shares(uniform, corners)[0], corners.mean(axis=0))


@given(SHARES, st.sampled_from([3, 4]))
def test_a_mixture_comes_back_from_its_point(values: Any, count: int) -> None:
    shares = (values[:count] / values[:count].sum())[None]
    corners = TRIANGLE if count == 3 else TETRAHEDRON
    np.testing.assert_allclose(invert_projection(project_shares(shares, corners), corners), shares, atol=1e-12)


@given(SHARES, SHARES)
def test_corners_of_the_allowed_part_are_extreme_mixtures_within_the_limits(one: Any, other: Any) -> None:
    low, high = np.minimum(one, other)[:3] / 3, np.maximum(one, other)[:3]
    corners = find_allowed_corners(low, high)
    np.testing.assert_allclose(corners.sum(axis=1), 1)
    assert (corners >= low - 1e-9).all()
    assert (corners <= high + 1e-9).all()
    # Slow twin: two of the three shares at a limit, the third whatever is left.
    extreme = []
    for free in range(3):
        first, second = (place for place in range(3) if place != free)
        for a in (low[first], high[first]):
            for b in (low[second], high[second]):
                left = 1 - a - b
                if low[free] - 1e-12 <= left <= high[free] + 1e-12:
                    row = np.zeros(3)
                    row[[first, second, free]] = a, b, left
                    extreme.append(row)
    assert len(corners) > 0 or not extreme
    for row in extreme:
        assert np.abs(corners - row).sum(axis=1).min() < 1e-6


def test_without_limits_the_whole_triangle_is_allowed() -> None:
    assert sorted(find_allowed_corners(np.zeros(3), np.ones(3)).tolist()) == sorted(np.eye(3).tolist())
    assert len(find_allowed_corners(np.array([0.6, 0.6, 0]), np.ones(3))) == 0


def landscape(**changes: Any) -> LandscapeRecord:
    """Three domains and one capability, whose utility is the share of the first and whose score is 0.5 throughout."""
    shares = [[a / 4, b / 4, 1 - a / 4 - b / 4] for a in range(5) for b in range(5 - a)]
    lines = [
        {
            "domain": domain,
            "shares": [0.0, 0.5, 1.0],
            "values": [[0.1, 0.5], [0.4, 0.5], [0.8, 0.5]],
            "low": [[0.0, 0.4]] * 3,
            "high": [[1.0, 0.6]] * 3,
            "near": [0],
        }
        for domain in range(3)
    ]
    values: dict[str, Any] = {
        "domains": ["ja", "<b>math</b>", "$code$"],
        "capabilities": ["gsm8k"],
        "low": [0, 0, 0],
        "high": [1, 1, 1],
        "measured": [{"trial": 7, "shares": [0.5, 0.25, 0.25], "values": [0.45, 0.5]}],
        "optimum": {"name": "optimum", "shares": [1, 0, 0], "values": [1.0, 0.5]},
        "winner": {"name": "best measured", "shares": [0.5, 0.25, 0.25], "values": [0.5, 0.5]},
        "surface": {"shares": shares, "values": [[row[0], 0.5] for row in shares]},
        "slices": lines,
    }
    return LandscapeRecord.model_validate(values | changes)


def test_three_domains_give_triangles_and_slices() -> None:
    section = build_landscape_section(landscape(), None)
    assert section is not None
    drawing = str(section.triangles)
    assert "point 7: ja 0.50, &lt;b&gt;math&lt;/b&gt; 0.25, $code$ 0.25; 0.45" in drawing
    for text in ("utility", "gsm8k", "ja", "$code$", "winner", "optimum by prediction"):
        assert text in drawing
    assert "<b>math" not in drawing
    assert "<image" not in drawing
    assert len(set(re.findall(r"--score-\d+", drawing))) == 12
    assert [name for name, _ in section.slices] == ["utility", "gsm8k"]
    assert "share of ja" in section.slices[0][1]
    assert "point 7: 50.0" in section.slices[1][1]
    assert section.cosines == ()
    assert build_landscape_section(landscape(), None) == section


def test_where_bounds_leave_a_line_there_are_slices_alone() -> None:
    section = build_landscape_section(landscape(low=[0.2, 0, 0], high=[0.2, 1, 1]), None)
    assert section is not None
    assert section.triangles is None
    assert len(section.slices) == 2
    cut = build_landscape_section(landscape(low=[0.1, 0, 0], high=[0.9, 0.8, 1]), None)
    assert cut is not None
    assert cut.triangles is not None


def test_a_value_that_an_expression_lacks_is_left_white() -> None:
    known = landscape()
    assert known.surface is not None
    holes = [[None, 0.5] if row[0] == 0 else [row[0], 0.5] for row in known.surface.shares]
    points = [{"trial": 7, "shares": [0, 0.5, 0.5], "values": [None, 0.5]}]
    points.append({"trial": 8, "shares": [1, 0, 0], "values": [1.0, 0.5]})
    surface = {"shares": known.surface.shares, "values": holes}
    section = build_landscape_section(landscape(surface=surface, measured=points), None)
    assert section is not None
    drawing = str(section.triangles)
    assert (drawing.count("point 7:"), drawing.count("point 8:")) == (1, 2)  # utility and score


def test_a_page_holds_so_many_panels_and_names_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_landscape_section(landscape(), None)
    assert whole is not None
    assert whole.left_out == ()
    monkeypatch.setattr("aftermix.report.sections.landscape.MOST_SLICES", 3)
    monkeypatch.setattr("aftermix.report.sections.landscape.MOST_TRIANGLES", 1)
    section = build_landscape_section(landscape(), None)
    assert section is not None
    assert [name for name, _ in section.slices] == ["utility"]
    assert section.left_out == ("gsm8k",)
    assert "gsm8k" not in str(section.triangles)


def test_names_of_a_tetrahedron_are_no_markup() -> None:
    pytest.importorskip("plotly", reason="the tetrahedron needs aftermix[plots]")
    from aftermix.report.charts.landscape_tetrahedron import draw_tetrahedron

    evil = "</script><script>alert(1)</script>"
    shares = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    point = {"trial": 0, "shares": shares[0], "values": [0.5, 0.5]}
    spot = {"name": evil, "shares": shares[0], "values": [0.5, 0.5]}
    values: dict[str, Any] = {
        "domains": [evil, "b", "c", "d"],
        "capabilities": [evil],
        "low": [0] * 4,
        "high": [1] * 4,
        "measured": [point],
        "optimum": spot,
        "winner": spot,
        "surface": {"shares": shares, "values": [[0.1, None], [0.2, 1], [0.3, 1], [0.4, 1]]},
        "slices": [],
    }
    page = draw_tetrahedron(landscape(**values), title=evil)
    assert "alert(1)" in page
    assert "<script>alert" not in page


def test_cosines_alone_are_a_section(tmp_path: Path) -> None:
    assert build_landscape_section(None, None) is None
    (tmp_path / "cosines.json").write_text(json.dumps({"vectors": ["a", "b"], "cosines": [[1, -0.25], [-0.25, None]]}))
    section = build_landscape_section(read_landscape(tmp_path), read_cosines(tmp_path))
    assert section is not None
    assert section.vectors == ("a", "b")
    assert section.cosines == (("a", ("1.00", f"{MINUS}0.25")), ("b", (f"{MINUS}0.25", "-")))
    assert section.triangles is None


def test_a_damaged_file_is_refused_by_its_place(tmp_path: Path) -> None:
    values = landscape().model_dump(mode="json")
    values["optimum"]["shares"][0] = "much"
    (tmp_path / "landscape.json").write_text(json.dumps(values))
    with pytest.raises(AftermixError, match="optimum") as caught:
        read_landscape(tmp_path)
    assert "landscape.json" in str(caught.value)
    assert CosinesRecord(vectors=("a",), cosines=((1.0,),)).vectors == ("a",)
