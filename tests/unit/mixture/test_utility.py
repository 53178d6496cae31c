"""Utilities: normalisation, weights, floors, expressions, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import MixtureError
from aftermix.mixture.utility import MixtureUtility

NAMES = ["math", "ja", "flat"]
DESIGN = np.array([[0.1, 5.0, 0.25], [0.3, 4.0, 0.25], [0.2, 9.0, 0.25], [0.2, 2.0, 0.25]])


def test_the_default_is_the_mean_of_z_scores_without_constant_capabilities() -> None:
    utility = MixtureUtility.build(NAMES, DESIGN)
    assert utility.left_out == ("flat",)
    assert utility.weights == {"math": 0.5, "ja": 0.5}
    z = (DESIGN[:, :2] - DESIGN[:, :2].mean(axis=0)) / DESIGN[:, :2].std(axis=0)
    np.testing.assert_allclose(utility.values(DESIGN), z.mean(axis=1))
    np.testing.assert_allclose(utility.values(DESIGN * [1, 1, 7]), utility.values(DESIGN))


def test_weights_count_and_zero_leaves_out() -> None:
    utility = MixtureUtility.build(NAMES, DESIGN, weights={"math": 3, "ja": 1, "flat": 0}, normalisation="raw")
    np.testing.assert_allclose(utility.values(DESIGN), (3 * DESIGN[:, 0] + DESIGN[:, 1]) / 4)
    assert utility.left_out == ()


def test_percentiles_are_mean_ranks_and_linear_between() -> None:
    utility = MixtureUtility.build(NAMES, DESIGN, weights={"math": 1}, normalisation="percentile")
    scores = np.zeros((6, 3))
    scores[:, 0] = [0.1, 0.2, 0.3, 0.15, -5.0, 5.0]
    np.testing.assert_allclose(utility.values(scores), [0.125, 0.5, 0.875, 0.3125, 0.125, 0.875])


def test_expressions_see_raw_scores_unless_told_otherwise() -> None:
    raw = MixtureUtility.build(NAMES, DESIGN, expression="min(math, ja) + flat")
    assert (raw.normalisation, raw.left_out) == ("raw", ("flat",))
    np.testing.assert_allclose(raw.values(DESIGN), DESIGN[:, 0] + 0.25)
    normal = MixtureUtility.build(NAMES, DESIGN, expression="min(math, ja) + flat", normalisation="zscore")
    z = (DESIGN[:, :2] - DESIGN[:, :2].mean(axis=0)) / DESIGN[:, :2].std(axis=0)
    np.testing.assert_allclose(normal.values(DESIGN), z.min(axis=1))


def test_floors_and_ceilings() -> None:
    utility = MixtureUtility.build(NAMES, DESIGN, floors={"math": 0.2, "ja": 4.5}, smaller_is_better=["ja"])
    np.testing.assert_allclose(utility.violation(DESIGN), [0.1 + 0.5, 0.0, 4.5, 0.0], atol=1e-12)
    assert utility.best(DESIGN) == int(np.array([1, 3])[utility.values(DESIGN[[1, 3]]).argmax()])
    impossible = MixtureUtility.build(NAMES, DESIGN, floors={"math": 0.9})
    assert impossible.best(DESIGN) == 1  # the nearest to the floor


@pytest.mark.parametrize("normalisation", ["zscore", "percentile", "raw"])
def test_smaller_can_be_better(normalisation: str) -> None:
    one = MixtureUtility.build(["loss"], DESIGN[:, 1:2], normalisation=normalisation, smaller_is_better=["loss"])
    assert one.best(DESIGN[:, 1:2]) == 3
    assert MixtureUtility.build(["loss"], DESIGN[:, 1:2], normalisation=normalisation).best(DESIGN[:, 1:2]) == 2


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_z_scores_and_percentiles_ignore_the_unit(seed: int) -> None:
    draw = np.random.default_rng(seed)
    design, others = draw.standard_normal((8, 2)), draw.standard_normal((20, 2))
    for normalisation in ("zscore", "percentile"):
        ours = MixtureUtility.build(["a", "b"], design, normalisation=normalisation).values(others)
        scaled = MixtureUtility.build(["a", "b"], 100 * design + 7, normalisation=normalisation).values(
            100 * others + 7
        )
        np.testing.assert_allclose(ours, scaled, atol=1e-9)


def test_where_an_expression_has_no_value_it_is_never_the_best() -> None:
    utility = MixtureUtility.build(NAMES, DESIGN, expression="log(math)")
    assert utility.values(np.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])).tolist() == [-np.inf, 0.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": {"physics": 1}}, "utility.weights: expected names among math, ja, flat, found 'physics'"),
        ({"floors": {"physics": 1}}, "utility.floors: expected names among"),
        ({"smaller_is_better": ["physics"]}, "utility.smaller_is_better: expected names among"),
        (
            {"weights": {"math": -1}},
            "utility.weights.math: expected a weight of at least 0, found -1. Use an expression",
        ),
        ({"weights": {"math": 0}}, "expected a capability with a weight above 0 among math, ja, flat, found none"),
        ({"weights": {}}, "expected a capability with a weight above 0"),
        ({"weights": {"flat": 1}}, r"every capability that counts scored the same at all points \(flat\)"),
        ({"expression": "flat + 1"}, r"every capability that counts scored the same at all points \(flat\)"),
        ({"expression": "3"}, "utility: '3' names no capability"),
        ({"expression": "1 / (math - 0.2)"}, "has no finite value at design point 2. Divide by nothing that can be 0"),
        ({"expression": "math", "weights": {"math": 1}}, "expected weights or an expression, found both"),
        ({"normalisation": "rank"}, "utility.normalisation: expected one of zscore, percentile, raw, found 'rank'"),
    ],
)
def test_refusals(options: dict[str, object], said: str) -> None:
    with pytest.raises(MixtureError, match=said):
        MixtureUtility.build(NAMES, DESIGN, **options)


def test_columns_must_have_names() -> None:
    with pytest.raises(MixtureError, match=r"scores: expected 2 columns \(math, ja\), found 3"):
        MixtureUtility.build(["math", "ja"], DESIGN)
