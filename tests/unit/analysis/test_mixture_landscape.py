"""Lattices and slices of the simplex, and what a run's surrogates say on them."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.analysis.mixture_landscape import (
    build_slices,
    build_surface,
    find_fixed_shares,
    find_near_slice,
    limit_slice,
    list_simplex_lattice,
    mix_along,
)
from aftermix.command_end import join_command
from aftermix.errors import AftermixError
from aftermix.jobs.landscape import build_page, draw_landscape, draw_picture, read_again
from aftermix.report.charts.landscape import is_triangle
from aftermix.report.charts.landscape_tetrahedron import draw_tetrahedron
from conftest import run_cli
from support.landscape_world import DOMAINS, TASKS, finished_run, finished_tree

SHARES = st.lists(st.floats(0.01, 1), min_size=3, max_size=5).map(lambda values: np.array(values) / sum(values))


@pytest.mark.parametrize(("domains", "steps"), [(2, 5), (3, 4), (4, 3)])
def test_a_lattice_has_every_mixture_once(domains: int, steps: int) -> None:
    found = list_simplex_lattice(domains, steps)
    assert len(np.unique(found, axis=0)) == len(found) == comb(steps + domains - 1, domains - 1)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found * steps, np.round(found * steps), atol=1e-12)
    assert found.min() == 0


@given(SHARES, st.data())
def test_a_slice_keeps_the_proportions_of_the_others(center: Any, data: st.DataObject) -> None:
    domain = data.draw(st.integers(0, len(center) - 1))
    shares = np.linspace(0, 0.9, 4)
    rows = mix_along(center, domain, shares)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_allclose(rows[:, domain], shares)
    others = np.delete(rows, domain, axis=1)
    np.testing.assert_allclose(others / others.sum(axis=1, keepdims=True), np.tile(others[0], (4, 1)))
    np.testing.assert_allclose(mix_along(center, domain, center[[domain]])[0], center)


@given(SHARES, st.floats(0.0, 0.9), st.data())
def test_a_slice_reaches_as_far_as_the_bounds_let_it(center: Any, room: float, data: st.DataObject) -> None:
    domain = data.draw(st.integers(0, len(center) - 1))
    low, high = center * (1 - room), np.minimum(1, center * (1 + room))
    ends = limit_slice(center, domain, low, high)
    inside = mix_along(center, domain, np.linspace(*ends, 5))
    assert (inside >= low - 1e-9).all()
    assert (inside <= high + 1e-9).all()
    # Slow twin: of many shares, those whose mixture is allowed.
    shares = np.linspace(0, 1, 2001)
    rows = mix_along(center, domain, shares)
    kept = shares[((rows >= low - 1e-12) & (rows <= high + 1e-12)).all(axis=1)]
    if len(kept):
        assert kept.min() >= ends[0] - 1e-9
        assert kept.max() <= ends[1] + 1e-9
        assert kept.min() - ends[0] < 0.001
        assert ends[1] - kept.max() < 0.001


@given(SHARES, st.data())
def test_fixed_shares_stay_where_a_slice_goes(center: Any, data: st.DataObject) -> None:
    place, domain = data.draw(st.permutations(range(len(center))))[:2]
    low, high = np.zeros(len(center)), np.ones(len(center))
    low[place] = high[place] = center[place]
    ends = limit_slice(center, domain, low, high)
    assert ends == pytest.approx((0, 1 - center[place]))
    rows = mix_along(center, domain, np.linspace(*ends, 5), find_fixed_shares(low, high))
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_allclose(rows[:, place], center[place])
    assert (rows >= -1e-12).all()
    others = np.delete(rows, [place, domain], axis=1)[:-1]
    np.testing.assert_allclose(others / others.sum(axis=1, keepdims=True), np.tile(others[0] / others[0].sum(), (4, 1)))


def test_points_are_near_by_total_variation() -> None:
    center = np.array([0.5, 0.3, 0.2])
    points = mix_along(center, 0, np.array([0.2, 0.9]))
    moved = points + np.array([[0, 0.09, -0.09], [0, 0.05, -0.05]])
    far = points[:1] + np.array([[0, 0.11, -0.11]])
    assert find_near_slice(np.concatenate([moved, far]), center, 0) == [0, 1]


def test_a_slice_passes_through_the_optimum_and_leaves_fixed_shares_out() -> None:
    center = np.array([0.5, 0.3, 0.2])

    def banded(rows: Any) -> Any:
        values = rows[:, :1] ** 2
        return values, values - 1, values + 1

    low, high = np.array([0.0, 0.3, 0.0]), np.array([1.0, 0.3, 1.0])
    held = build_slices(banded, center_K=center, low_K=low, high_K=high, points_NK=center[None])
    assert [line["domain"] for line in held] == [0, 2]
    assert [line["shares"][-1] for line in held] == [0.7, 0.7]  # type: ignore[index]
    alone = np.array([0.5, 0.3, 0.0]), np.array([0.5, 0.3, 1.0])
    assert build_slices(banded, center_K=center, low_K=alone[0], high_K=alone[1], points_NK=center[None]) == []
    free = build_slices(banded, center_K=center, low_K=np.zeros(3), high_K=np.ones(3), points_NK=center[None])
    assert [line["domain"] for line in free] == [0, 1, 2]
    shares: Any = free[0]["shares"]
    values: Any = free[0]["values"]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert values[shares.index(0.5)] == [0.25]
    assert free[0]["near"] == [0]
    assert build_surface(lambda rows: rows[:, :1], domains=5) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("landscapes")
    asked: dict[int, dict[str, Any]] = {3: {"bounds": {"code": [0.1, 0.6]}}, 4: {}, 5: {"fixed": {"law": 0.1}}}
    return {
        domains: finished_run(folder / f"run{domains}", domains=domains, failed=6, **more)
        for domains, more in asked.items()
    }


@pytest.mark.parametrize("domains", [3, 4, 5])
def test_the_surrogates_are_those_of_the_run(runs: dict[int, Path], domains: int) -> None:
    found = read_again(runs[domains])
    best = json.loads((runs[domains] / "best.json").read_text())
    assert found.domains == DOMAINS[:domains]
    assert found.optimum.values[0] == pytest.approx(best["optimum"]["utility"], rel=1e-5)
    assert list(found.optimum.shares) == list(best["optimum"]["shares"].values())
    for place, task in enumerate(TASKS, 1):
        assert found.optimum.values[place] == pytest.approx(best["optimum"]["scores"][task]["mean"], rel=1e-5)
    for line in found.slices:
        at = line.shares.index(float(f"{found.optimum.shares[line.domain]:.6g}"))
        assert line.values[at] == pytest.approx(found.optimum.values, rel=1e-4)
        assert (line.low[at][0], line.high[at][0]) == pytest.approx(best["optimum"]["interval"], rel=1e-4)
        for place, task in enumerate(TASKS, 1):
            sd = best["optimum"]["scores"][task]["sd"]
            assert line.high[at][place] == pytest.approx(found.optimum.values[place] + 2 * sd, rel=1e-4)
    free = [domain for domain in found.domains if domain != "law"]
    assert [found.domains[line.domain] for line in found.slices] == free
    assert (found.surface is None) == (domains == 5)
    assert 6 not in [point.trial for point in found.measured]
    assert len(found.measured) == 23


def test_measured_points_have_their_own_scores(runs: dict[int, Path]) -> None:
    found = read_again(runs[3])
    trials = [json.loads(line) for line in (runs[3] / "trials.jsonl").read_text().splitlines()]
    scored = {trial["number"]: list(trial["scores"].values()) for trial in trials if trial["state"] == "complete"}
    table = np.array(list(scored.values()))
    utility = ((table - table.mean(axis=0)) / table.std(axis=0)).mean(axis=1)
    for point, expected in zip(found.measured, utility, strict=True):
        assert point.values[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert point.values[1:] == pytest.approx(scored[point.trial], rel=1e-5)


def test_pictures_of_every_kind(runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    assert run_cli("landscape", runs[3], "-o", svg) == 0
    assert capsys.readouterr().out == f"Picture: {svg}\n"
    assert svg.read_bytes() == draw_picture(read_again(runs[3]), kind="svg")
    text = svg.read_text(encoding="utf-8")
    for word in ("utility", *TASKS, "math", "measured, filled with its own score"):
        assert word in text
    assert "<image" not in text
    assert "#440154" in text
    draw_landscape(runs[5], tmp_path / "fixed.svg")
    assert "share of law" not in (fixed := (tmp_path / "fixed.svg").read_text(encoding="utf-8"))
    assert "share of web" in fixed
    draw_landscape(runs[4], png)
    assert png.read_bytes()[:4] == b"\x89PNG"
    document = build_page(svg.read_bytes(), title="<run>")
    assert document.startswith("<!doctype html>")
    assert "<title>&lt;run&gt;</title>" in document
    assert "<script" not in document
    assert document.count("<svg") == 1


def test_four_domains_can_be_turned(runs: dict[int, Path], tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the tetrahedron needs aftermix[plots]")
    turned = draw_landscape(runs[4], tmp_path / "turn.html").read_text(encoding="utf-8")
    assert turned == draw_tetrahedron(read_again(runs[4]), title="Landscape of run4")
    assert not re.search(r"<script[^>]+src=", turned)
    assert "<link" not in turned.split("<script")[0]
    # The drawing stands behind plotly itself, as the last call of it.
    traces, _ = json.JSONDecoder().raw_decode(turned, turned.index("[", turned.rindex('"landscape",')))
    steady = len(traces) - 3 * (1 + len(TASKS))
    assert steady == 6 + 1 + 2  # edges, names of the corners, winner and optimum
    assert [trace.get("visible", True) for trace in traces[steady:]] == [True] * 3 + [False] * 9
    assert [unescape(text) for text in traces[6]["text"]] == [f"<b>{name}</b>" for name in DOMAINS[:4]]
    best, others, measured = traces[steady : steady + 3]
    assert min(best["marker"]["color"]) >= max(others["marker"]["color"])
    assert len(best["x"]) == pytest.approx(0.15 * (len(best["x"]) + len(others["x"])), abs=2)
    assert len(measured["x"]) == 23


def test_a_tetrahedron_without_plotly_is_refused(
    runs: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(AftermixError) as caught:
        draw_landscape(runs[4], tmp_path / "turn.html")
    assert str(caught.value) == (
        "--output: a tetrahedron that can be turned needs plotly, which is not installed. "
        "pip install 'aftermix[plots]', or name a .svg or .png."
    )
    assert not (tmp_path / "turn.html").exists()


def test_each_group_of_a_tree_has_its_landscape(tmp_path: Path) -> None:
    run = finished_tree(tmp_path / "run")
    groups = {path.name for path in (run / "levels").iterdir()}
    assert "text" in groups
    found = read_again(run / "levels" / "text")
    best = json.loads((run / "levels" / "text" / "best.json").read_text())
    assert set(found.domains) == {"ja", "web", "math"}
    assert is_triangle(found)
    assert found.optimum.values[0] == pytest.approx(best["optimum"]["utility"], rel=1e-5)
    with pytest.raises(AftermixError, match="each group of its tree has a landscape of its own") as caught:
        read_again(run)
    assert all(name in str(caught.value) for name in groups)
    # A group that was too small to be searched says so.
    (run / "levels" / "text" / "best.json").write_text(
        json.dumps({"level": "text", "shares": {}, "note": "has too small a share"})
    )
    with pytest.raises(AftermixError, match=r"text: has too small a share\. Name another group\."):
        read_again(run / "levels" / "text")


def test_what_is_no_finished_mixture_run_is_refused(runs: dict[int, Path], tmp_path: Path) -> None:
    import shutil

    with pytest.raises(AftermixError) as caught:
        draw_landscape(runs[3], tmp_path / "a.pdf")
    assert str(caught.value) == (
        f"--output: expected a name that ends in .svg, .png or .html, found '{tmp_path / 'a.pdf'}'. "
        "Name the picture by its kind."
    )
    with pytest.raises(AftermixError, match="is not a run"):
        draw_landscape(tmp_path, tmp_path / "a.svg")
    unfinished = Path(shutil.copytree(runs[3], tmp_path / "unfinished"))
    (unfinished / "best.json").unlink()
    with pytest.raises(AftermixError) as caught:
        draw_landscape(unfinished, tmp_path / "a.svg")
    assert str(caught.value) == (
        f"{unfinished}: the run is not finished, so it has no optimum. "
        f"Go on with it: `{join_command('aftermix', 'mixture', '--resume', unfinished)}`."
    )
    (unfinished / "design.json").unlink()
    with pytest.raises(AftermixError, match="expected the run of a mixture, found that of a search"):
        draw_landscape(unfinished, tmp_path / "a.svg")
