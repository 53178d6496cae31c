"""Scores of mixtures from those of the experts alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.mixture.proxies.null_proxy import predict_null

SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=5)


@given(SCORES, st.integers(0, 1000))
def test_corners_are_the_experts_and_a_mixture_lies_between(scores: list[tuple[float, float]], seed: int) -> None:
    experts_KT = np.array(scores)
    assert np.array_equal(predict_null(np.eye(len(scores)), experts_KT), experts_KT)
    share_K = np.random.default_rng(seed).dirichlet(np.ones(len(scores)))
    mixed_T = predict_null(share_K[None], experts_KT)[0]
    assert (mixed_T <= experts_KT.max(axis=0) + 1e-12).all()
    assert (mixed_T >= experts_KT.min(axis=0) - 1e-12).all()


def test_the_base_has_the_weight_that_is_left() -> None:
    experts_KT, base_T = np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0.5, 0.5])
    found = predict_null(np.array([[0.0, 0.0], [0.25, 0.25], [1.0, 0.5]]), experts_KT, base_T)
    assert found == pytest.approx(np.array([[0.5, 0.5], [0.55, 0.45], [0.75, 0.25]]))
