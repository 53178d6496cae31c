"""Bounds on shares: joined from all sources, the nearest allowed mixture, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from aftermix.errors import AftermixError, ManyProblemsError, MixtureError
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.simplex import order_shares, share_by_tokens

SEEDS = st.integers(0, 2**32 - 1)


def some_bounds(draw: np.random.Generator, domains: int) -> ShareBounds:
    """Limits around a random mixture, so that they have a point."""
    inside = draw.dirichlet(np.ones(domains))
    limits = {f"d{k}": (inside[k] * draw.random(), inside[k] + (1 - inside[k]) * draw.random()) for k in range(domains)}
    return ShareBounds.build(list(limits), bounds=limits)


def test_all_limits_are_joined() -> None:
    found = ShareBounds.build(
        ["a", "b", "c"],
        bounds={"a": (0.1, 0.9)},
        fixed={"b": 0.2},
        tokens={"a": 1e9, "b": 1e9, "c": 8e9},
        budget_tokens=1e10,
        max_epochs=4,
    )
    assert found.low_K.tolist() == [0.1, 0.2, 0.0]
    assert found.high_K.tolist() == [0.4, 0.2, 1.0]
    assert found.free == 2
    assert found.admits(np.array([[0.4, 0.2, 0.4], [0.5, 0.2, 0.3], [0.3, 0.3, 0.4]])).tolist() == [True, False, False]


def test_largest_shares_are_a_cap_like_that_of_epochs() -> None:
    tokens, shares = {"a": 3e8, "b": 7e9, "c": 1e11}, {"a": 0.12, "b": 2.8, "c": 40.0}
    epochs = ShareBounds.build(list("abc"), tokens=tokens, budget_tokens=1e10, max_epochs=4)
    assert ShareBounds.build(list("abc"), largest_shares=shares).high_K.tolist() == epochs.high_K.tolist()
    both = ShareBounds.build(list("ab"), largest_shares={"a": 0.7, "b": 0.9}, bounds={"b": (0.1, 0.6)})
    assert both.high_K.tolist() == [0.7, 0.6]
    with pytest.raises(MixtureError, match=r"below 1.*allow more epochs"):
        ShareBounds.build(list("ab"), largest_shares={"a": 0.3, "b": 0.3})
    with pytest.raises(ManyProblemsError, match="domain 'b': expected tokens above 0, found 0. Give it data"):
        ShareBounds.build(list("ab"), largest_shares={"a": 1.0, "b": 0.0})


@settings(max_examples=40)
@given(SEEDS, st.integers(2, 6))
def test_the_nearest_mixture_is_allowed_and_nearest(seed: int, domains: int) -> None:
    draw = np.random.default_rng(seed)
    bounds = some_bounds(draw, domains)
    points = draw.dirichlet(np.full(domains, 0.3), 5)
    nearest = bounds.nearest(points)
    assert bounds.admits(nearest).all()
    np.testing.assert_allclose(nearest.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(bounds.nearest(nearest), nearest, atol=1e-9)
    slow = minimize(
        lambda w: ((w - points[0]) ** 2).sum(),
        nearest[0],
        bounds=list(zip(bounds.low_K, bounds.high_K, strict=True)),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
    )
    assert ((nearest[0] - points[0]) ** 2).sum() <= slow.fun + 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bounds": {"d": (0, 1)}}, "bounds: expected names among a, b, c, found 'd'"),
        ({"fixed": {"d": 0.1}}, "fixed: expected names among a, b, c, found 'd'"),
        ({"bounds": {"a": (0.5, 0.2)}}, "bounds.a: expected 0 <= lowest <= highest <= 1, found 0.5 and 0.2"),
        ({"bounds": {"a": (0, 1.2)}}, "bounds.a: expected 0 <= lowest <= highest <= 1"),
        ({"fixed": {"a": float("nan")}}, "fixed.a: expected a share from 0 to 1, found nan"),
        ({"fixed": {"a": 0.5}, "bounds": {"a": (0, 1)}}, "fixed.a: a share that is fixed has bounds too"),
        ({"fixed": {"a": 0.6, "b": 0.6}}, "bounds: the lowest shares sum to 1.2, above 1. Widen the bounds"),
        ({"bounds": dict.fromkeys("abc", (0, 0.3))}, "bounds: the highest shares sum to 0.9, below 1"),
        ({"max_epochs": 4}, "max_epochs: a cap on epochs without the tokens of each domain and of the training"),
        (
            {"max_epochs": 1, "budget_tokens": 10, "tokens": {"a": 1, "b": 2, "c": 3}},
            "the highest shares sum to 0.6, below 1. Widen the bounds, allow more epochs or plan fewer tokens",
        ),
        (
            {"max_epochs": 1, "budget_tokens": 10, "tokens": {"a": 1, "b": 20, "c": 3}, "bounds": {"a": (0.5, 1)}},
            "domain 'a': has at least 0.5 of the mixture but data for 0.1",
        ),
        (
            {"max_epochs": 1, "budget_tokens": 10, "tokens": {"a": 1, "b": 9}},
            "domain 'c': expected tokens above 0, found 0",
        ),
        ({"max_epochs": 0, "budget_tokens": 10, "tokens": {}}, "max_epochs: expected a number above 0, found 0"),
    ],
)
def test_refusals(options: dict[str, object], said: str) -> None:
    with pytest.raises(AftermixError, match=said):
        ShareBounds.build(["a", "b", "c"], **options)


def test_domains_are_several_and_distinct() -> None:
    with pytest.raises(MixtureError, match="domains: expected two domains or more, found 1"):
        ShareBounds.build(["a"])
    with pytest.raises(MixtureError, match="domains: expected distinct names, found 'a' twice"):
        ShareBounds.build(["a", "a"])


def test_shares_by_name() -> None:
    assert order_shares({"b": 0.25, "a": 0.75}, ["a", "b", "c"], where="prior").tolist() == [0.75, 0.25, 0.0]
    with pytest.raises(MixtureError, match="prior: expected names among a, b, found 'x'"):
        order_shares({"x": 1.0}, ["a", "b"], where="prior")
    with pytest.raises(MixtureError, match="prior, row 0: .* found a sum of 0.5"):
        order_shares({"a": 0.5}, ["a", "b"], where="prior")
    with pytest.raises(MixtureError, match="domain 'b': expected tokens above 0, found 0. Give it data"):
        share_by_tokens({"a": 5, "b": 0})
