"""Drawings: well-formed, isolated from the page, and chosen to fit the number of vectors and trials."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from aftermix.report.charts.svg import ACCENT, draw
from aftermix.report.charts.weight_space import MAX_LINES, MAX_MARKS, draw_weight_space, measure_influence, thin_out
from aftermix.report.number_format import POINTS
from aftermix.runs.trials import Trial

SVG = "{http://www.w3.org/2000/svg}"


def _dot(figure, label="x"):
    axes = figure.add_subplot()
    axes.scatter([0, 1], [0, 1], color=ACCENT).set_gid("dots")
    axes.set_xlabel(label)
    return {"dots": ["first <1>", "second & 2"]}


def test_drawing_is_text_with_tooltips_in_page_colours():
    svg = str(draw(_dot, name="a", label="two dots", width_px=300, height_px=200))
    root = ET.fromstring(svg)  # noqa: S314

    assert root.get("viewBox") == "0 0 300 200"
    assert root.get("aria-label") == "two dots"
    assert [title.text for title in root.iter(f"{SVG}title")] == ["first <1>", "second & 2"]
    assert "x" in [text.text for text in root.iter(f"{SVG}text")]
    assert "var(--accent)" in svg
    assert "font-family" not in svg
    assert "<style" not in svg
    assert "metadata" not in svg


def test_dollar_signs_in_names_are_no_formula():
    svg = str(draw(lambda figure: _dot(figure, r"$\badmath$ & <b>"), name="a", label="", width_px=300, height_px=200))

    assert r"$\badmath$ &amp; &lt;b&gt;" in svg


def test_two_drawings_share_no_id():
    def ids(name: str) -> set[str | None]:
        root = ET.fromstring(str(draw(_dot, name=name, label="", width_px=300, height_px=200)))  # noqa: S314
        return {element.get("id") for element in root.iter()} - {None}

    assert ids("a")
    assert ids("a") & ids("b") == set()


def test_missing_tooltip_is_an_error():
    def paint(figure):
        _dot(figure)
        return {"dots": ["only one"]}

    with pytest.raises(ValueError, match="zip"):
        draw(paint, name="a", label="", width_px=300, height_px=200)


def _trials(count: int, names: str) -> list[Trial]:
    rng = np.random.default_rng(0)
    return [
        Trial(
            number=n,
            state="complete",
            weights=dict(zip(names, rng.random(len(names)).tolist(), strict=True)),
            objective=(float(rng.random()),),
            feasible=True,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("a", ["Score against"]),
        ("ab", ["two vectors"]),
        ("abcd", ["two vectors"]),
        ("abcde", ["one line a trial", "two vectors"]),
    ],
)
def test_kind_of_weight_space_fits_the_number_of_vectors(names, labels):
    space = draw_weight_space(_trials(12, names), vectors=tuple(names), winner=3, scale=POINTS)

    assert len(space.charts) == len(labels)
    for chart, label in zip(space.charts, labels, strict=True):
        assert label in str(chart)
    panels = {"a": 1, "ab": 1, "abcd": 6, "abcde": 3}[names]
    assert str(space.charts[-1]).count("<title>") == 12 * panels


def test_weight_space_without_a_scored_trial_is_none():
    failed = Trial(number=0, state="failed", weights={"a": 0.5})

    assert draw_weight_space([failed], vectors=("a",), winner=None, scale=POINTS) is None


def test_equal_scores_and_weights_outside_the_vectors_are_drawn():
    trials = [replace(trial, objective=(0.5,)) for trial in _trials(4, "ab")]

    assert draw_weight_space(trials, vectors=("a", "b", "new"), winner=None, scale=POINTS).high == "50.0"


def test_marks_are_bounded_for_very_long_searches():
    space = draw_weight_space(_trials(1500, "abcd"), vectors=tuple("abcd"), winner=3, scale=POINTS)
    lines = draw_weight_space(_trials(400, "abcde"), vectors=tuple("abcde"), winner=3, scale=POINTS)

    assert str(space.charts[0]).count("<title>") == MAX_MARKS
    assert str(lines.charts[0]).count("<title>") <= MAX_LINES
    assert lines.note.startswith("The lines show the best trials and an even sample of the others.")


@given(st.integers(0, 400), st.integers(3, 60))
def test_thinning_keeps_order_bound_and_the_best(count, limit):
    kept = thin_out(range(count), limit)

    assert kept == sorted(set(kept))
    assert len(kept) <= limit
    assert set(range(max(0, count - limit // 3), count)) <= set(kept)


@given(
    arrays(np.float64, (8, 3), elements=st.integers(-5, 5).map(float)),
    arrays(np.float64, 8, elements=st.integers(-5, 5).map(float)),
)
def test_influence_is_the_absolute_spearman_correlation(weights, scores):
    expected = []
    for column in weights.T:
        constant = np.ptp(column) == 0 or np.ptp(scores) == 0
        expected.append(0.0 if constant else abs(spearmanr(column, scores).statistic))

    np.testing.assert_allclose(measure_influence(weights, scores), expected, atol=1e-12)
