"""Margins and gaps of choices against loops over items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.response.margins import UNBOUNDED, ChoiceItems, bound_outputs


def build_items(seed: int) -> tuple[ChoiceItems, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 6, rng.integers(1, 8))
    gold = np.array([rng.integers(0, count) for count in counts])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    items = ChoiceItems(offsets, gold, rng.integers(1, 30, offsets[-1]).astype(np.float64))
    return items, rng.normal(-20, 5, (3, offsets[-1]))


@given(st.integers(0, 10_000))
def test_margins_and_gaps_are_those_of_loops(seed: int) -> None:
    items, likelihood = build_items(seed)
    margins = items.center(likelihood)
    gaps = items.compute_gaps(margins)

    for merge in range(3):
        for item, (start, end) in enumerate(zip(items.offsets[:-1], items.offsets[1:], strict=True)):
            divided = likelihood[merge, start:end] / items.lengths_R[start:end]
            assert margins[merge, start:end] == pytest.approx(divided - divided.mean(), abs=1e-5)
            right = divided[items.gold_I[item]]
            others = np.delete(divided, items.gold_I[item])
            assert gaps[merge, item] == pytest.approx(right - others.max(), abs=1e-5)


@given(st.integers(0, 10_000), st.floats(0.5, 10))
def test_a_bound_is_kept_and_so_is_the_order_of_choices(seed: int, bound: float) -> None:
    items, likelihood = build_items(seed)
    margins = items.center(likelihood)
    bounded = bound_outputs(margins, bound)
    assert np.abs(bounded).max() <= bound
    near = np.abs(margins) < 0.1 * bound
    assert bounded[near] == pytest.approx(margins[near], rel=0.005)
    assert (np.sign(items.compute_gaps(bounded)) * np.sign(items.compute_gaps(margins)) >= 0).all()


def test_no_bound_leaves_outputs_as_they_are() -> None:
    assert bound_outputs(np.array([1e6, -3.0]), UNBOUNDED).tolist() == [1e6, -3.0]
