"""Designs on the simplex."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import MixtureError
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.design import APART, build_design, list_lattice
from unit.mixture.test_bounds import SEEDS, some_bounds


def test_four_domains_have_the_lattice_of_a_quarter_and_five_more() -> None:
    priors = {"tokens": {"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1}, "mine": {"a": 0.4, "b": 0.6}}
    design = build_design(list("abcd"), priors=priors)
    assert design.weights_NK.shape == (40, 4)
    on_lattice = np.isclose(design.weights_NK * 4 % 1, 0).all(axis=1)
    assert on_lattice.sum() == 35
    assert design.kinds[:7] == ("uniform", "prior tokens", "prior mine", *(f"vertex {name}" for name in "abcd"))
    assert [kind for kind in design.kinds if kind == "fill"] == ["fill"] * 3
    assert design.mixtures[1] == pytest.approx(priors["tokens"])
    assert design.repeats == (0, 1, 3)


def test_the_lattice_is_every_way_to_give_out_the_parts() -> None:
    found = {tuple(np.rint(row * 3).astype(int)) for row in list_lattice(ShareBounds.build(list("abc")), 3)}
    assert found == {ways for ways in itertools.product(range(4), repeat=3) if sum(ways) == 3}


def test_seventeen_domains_are_filled_from_even_to_sparse() -> None:
    design = build_design([f"d{k}" for k in range(17)], points=60)
    filled = design.weights_NK[[kind == "fill" for kind in design.kinds]]
    assert len(filled) == 60 - 18
    largest = filled.max(axis=1)
    assert largest.min() < 0.3
    assert largest.max() > 0.6


@settings(max_examples=30)
@given(SEEDS, st.integers(3, 6), st.booleans())
def test_points_are_distinct_sum_to_one_and_keep_the_bounds(seed: int, domains: int, bounded: bool) -> None:
    names = [f"d{k}" for k in range(domains)]
    bounds = some_bounds(np.random.default_rng(seed), domains) if bounded else ShareBounds.build(names)
    try:
        design = build_design(names, points=25, bounds=bounds, seed=seed)
    except MixtureError as error:
        assert "room for" in str(error)
        return
    assert len(design.weights_NK) == len(design.kinds) == 25
    assert bounds.admits(design.weights_NK).all()
    np.testing.assert_allclose(design.weights_NK.sum(axis=1), 1, atol=1e-9)
    for one, other in itertools.combinations(design.weights_NK, 2):
        assert np.abs(one - other).max() >= APART


def test_the_seed_decides_and_nothing_else() -> None:
    names = [f"d{k}" for k in range(6)]
    one, same, other = (build_design(names, seed=seed).weights_NK for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_vertices_go_as_far_as_the_bounds() -> None:
    bounds = ShareBounds.build(list("abc"), bounds={"a": (0.0, 0.5)}, fixed={"c": 0.2})
    design = build_design(list("abc"), bounds=bounds, points=10)
    np.testing.assert_allclose(design.weights_NK[:, 2], 0.2)
    assert design.weights_NK[:, 0].max() == pytest.approx(0.5)
    assert design.weights_NK[:, 0].min() == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"points": 3}, r"points: expected at least 4 points \(uniform, priors, one for each domain\), found 3"),
        ({"priors": {"mine": {"x": 1.0}}}, "prior 'mine': expected names among a, b, c, found 'x'"),
        ({"priors": {"mine": {"a": 0.5}}}, "prior 'mine', row 0: .* found a sum of 0.5"),
        ({"bounds": ShareBounds.build(["a", "b"])}, "bounds: expected bounds of a, b, c, found a, b"),
        ({"bounds": ShareBounds.build(list("abc"), fixed={"a": 0.5, "b": 0.1})}, "the bounds leave one mixture only"),
        (
            {"bounds": ShareBounds.build(list("abc"), bounds={"a": (0, 0.2)}), "priors": {"mine": {"a": 1.0}}},
            "prior 'mine': has 1 of 'a', expected 0 to 0.2. Correct it, or widen the bounds",
        ),
        (
            {"bounds": ShareBounds.build(list("abc"), fixed={"a": 0.5}, bounds={"b": (0.2, 0.21)})},
            r"points: the bounds have room for \d+ distinct points, expected 40",
        ),
    ],
)
def test_refusals(options: dict[str, object], said: str) -> None:
    with pytest.raises(MixtureError, match=said):
        build_design(["a", "b", "c"], **options)
