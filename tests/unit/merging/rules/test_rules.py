"""Rules of merging against slow twins that follow the definitions entry by entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aftermix.merging.rules.inter import disjoint_mean, weighted_mean, weighted_sum
from aftermix.merging.rules.intra import TensorKey, keep_all, magnitude, random_rescale
from aftermix.merging.topk.magnitude import TensorBlocks, count_kept, find_top_k
from aftermix.seeds import keep_mask


def in_blocks(values: torch.Tensor, size: int) -> TensorBlocks:
    flat = values.reshape(-1)
    bounds = [(start, min(start + size, len(flat))) for start in range(0, len(flat), size)]
    return TensorBlocks(bounds, lambda bounds: flat[bounds[0] : bounds[1]].clone())


def row_of(values: torch.Tensor) -> int:
    return values.shape[-1] if values.ndim else 1


def kept(rule: Any, values: torch.Tensor, *, block: int = 4, **options: Any) -> torch.Tensor:
    """`rule` applied to a whole tensor in blocks of `block` elements."""
    keeper = rule(in_blocks(values, block), TensorKey(0, "v", "t", values.numel(), row_of(values)), **options)
    parts = [keeper(part.clone(), number * block) for number, part in enumerate(values.reshape(-1).split(block))]
    return torch.cat(parts).view(values.shape)


FEW_VALUES = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.25, 1e-30, -1e-30, 1e-42, 65504.0])
ANY_FLOAT = st.floats(-1e6, 1e6, width=32)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=9)
# Few distinct values make ties, and ties are what selection gets wrong.
ARRAYS = hnp.arrays(np.float32, SHAPES, elements=st.one_of(FEW_VALUES, ANY_FLOAT))


def top_reference(values: np.ndarray, count: int) -> np.ndarray:
    flat = values.reshape(-1)
    order = sorted(range(flat.size), key=lambda i: (-abs(float(flat[i])), i))
    mask = np.zeros(flat.size, dtype=bool)
    mask[order[:count]] = True
    return mask.reshape(values.shape)


@given(values=ARRAYS, share=st.floats(0, 1), block=st.integers(1, 40))
@settings(max_examples=200)
def test_a_cut_is_the_sorted_choice_whatever_the_blocks(values: np.ndarray, share: float, block: int) -> None:
    tensor = torch.from_numpy(values.copy()).reshape(-1)
    count = max(1, int(share * values.size))
    cut = find_top_k(in_blocks(tensor, block), count)
    found = torch.cat([cut.apply(part, number * block) for number, part in enumerate(tensor.split(block))])
    wanted = np.where(top_reference(values, count), values, 0)
    assert np.array_equal(found.numpy().reshape(values.shape), wanted)


@given(values=ARRAYS, density=st.floats(0.01, 1), block=st.integers(1, 40))
@settings(max_examples=100)
def test_magnitude_keeps_the_floor_of_density_times_n(values: np.ndarray, density: float, block: int) -> None:
    found = kept(magnitude, torch.from_numpy(values.copy()), block=block, density=density).numpy()
    expected = np.where(top_reference(values, count_kept(values.size, density)), values, 0)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("density", [0.1, 0.2, 0.29, 0.3, 0.57, 0.7, 1.0])
def test_counts_do_not_suffer_from_binary_fractions(density: float) -> None:
    assert count_kept(1000, density) == round(1000 * density)
    assert count_kept(10**10, density) == round(10**10 * density)


def disjoint_reference(deltas: list[np.ndarray], weights: list[float], *, normalize: bool) -> np.ndarray:
    result = np.zeros(deltas[0].shape, dtype=np.float64)
    for index in np.ndindex(deltas[0].shape):
        parts = [np.float32(w) * d[index] for d, w in zip(deltas, weights, strict=True)]
        total = np.float32(0)
        for part in parts:
            total = np.float32(total + part)
        sign = 1 if total >= 0 else -1
        agreeing = [(p, abs(w)) for p, w in zip(parts, weights, strict=True) if np.sign(p) == sign]
        if agreeing:
            value = sum(float(p) for p, _ in agreeing)
            result[index] = value / sum(w for _, w in agreeing) if normalize else value
    return result


@given(data=st.data(), normalize=st.booleans())
@settings(max_examples=150)
def test_disjoint_mean_follows_its_definition(data: st.DataObject, normalize: bool) -> None:
    shape = data.draw(SHAPES)
    count = data.draw(st.integers(1, 4))
    values = st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -3.0])
    deltas = [data.draw(hnp.arrays(np.float32, shape, elements=values)) for _ in range(count)]
    weights = data.draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, -0.5]), min_size=count, max_size=count))
    fast = disjoint_mean([torch.from_numpy(d.copy()) for d in deltas], weights, normalize=normalize)
    assert np.allclose(fast.numpy(), disjoint_reference(deltas, weights, normalize=normalize), rtol=1e-6)


def test_disjoint_mean_of_equal_weights_is_the_mean_over_the_elected_sign() -> None:
    deltas = [torch.tensor([1.0, 1.0, 0.0, -1.0]), torch.tensor([3.0, -4.0, 2.0, 1.0])]
    assert disjoint_mean(deltas, [0.5, 0.5]).tolist() == [2.0, -4.0, 2.0, 1.0]  # a cancelled sum counts as plus
    assert disjoint_mean(deltas, [0.5, 0.5], normalize=False).tolist() == [2.0, -2.0, 1.0, 0.5]


def test_an_election_by_count_lets_every_vector_vote_once() -> None:
    deltas = [torch.tensor([5.0, -3.0, 1.0]), torch.tensor([-1.0, 1.0, 0.0]), torch.tensor([-2.0, 1.0, -1.0])]
    assert disjoint_mean(deltas, [1.0, 1.0, 1.0]).tolist() == [5.0, -3.0, 1.0]
    # A tie of votes counts as plus; a negative weight turns a vector's vote.
    assert disjoint_mean(deltas, [1.0, 1.0, 1.0], election="count").tolist() == [-1.5, 1.0, 1.0]
    assert disjoint_mean(deltas, [1.0, 1.0, -1.0], election="count", normalize=False).tolist() == [7.0, -4.0, 2.0]


def test_a_bracket_that_misses_costs_readings_and_not_the_result() -> None:
    """Values laid out so that the sample sees only the smallest of them."""
    sampled = torch.ones(1 << 20, dtype=torch.bool)
    seen: list[tuple[int, int]] = []
    probe = TensorBlocks([(0, 1 << 20)], lambda bounds: seen.append(bounds) or torch.zeros(bounds[1] - bounds[0]))  # type: ignore[func-returns-value]
    probe.draw_sample()
    for start, end in seen:
        sampled[start:end] = False
    values = torch.where(sampled, torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)), torch.zeros(()))
    for count in (1, 1000, 1 << 19, (1 << 20) - 1):
        cut = find_top_k(in_blocks(values, 1 << 18), count)
        found = cut.apply(values.clone(), 0)
        order = np.argsort(-values.abs().numpy(), kind="stable")[:count]
        wanted = np.zeros(len(values), dtype=np.float32)
        wanted[order] = values.numpy()[order]
        assert np.array_equal(found.numpy(), wanted)


def test_a_faulty_value_is_kept_by_every_rule() -> None:
    delta = torch.tensor([0.1, float("nan"), float("inf"), 0.2])
    assert kept(magnitude, delta.clone(), density=0.5).isnan().sum() == 1
    assert not kept(random_rescale, delta.clone(), density=0.1).isfinite().all()
    assert disjoint_mean([delta, delta], [1.0, 1.0])[1].isnan()


def test_sums_and_means_by_hand() -> None:
    tensors = [torch.tensor([1.0, -2.0]), torch.tensor([4.0, 8.0])]
    assert weighted_sum(tensors, [0.5, -0.25]).tolist() == [-0.5, -3.0]
    assert weighted_mean(tensors, [1.0, 3.0]).tolist() == [3.25, 5.5]
    assert tensors[0].tolist() == [1.0, -2.0]  # operands are left alone


def test_keep_all_keeps_all() -> None:
    delta = torch.tensor([1.0, -0.0, 1e-45])
    assert keep_all(in_blocks(delta, 2), TensorKey(0, "v", "t", 3, 3))(delta, 0) is delta


def test_random_rescale_keeps_the_expectation_and_the_share() -> None:
    delta = torch.ones(200_000)
    found = kept(random_rescale, delta, block=50_000, density=0.25)
    assert set(found.unique().tolist()) == {0.0, 4.0}
    # Five standard errors of a binomial share.
    assert abs(float((found != 0).double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 200_000) ** 0.5
    assert kept(random_rescale, delta, density=1.0).equal(delta)
    assert set(kept(random_rescale, delta, density=0.25, rescale="none").unique().tolist()) == {0.0, 1.0}


def test_random_rescale_l1_restores_the_norm() -> None:
    delta = torch.linspace(-2, 3, 1001)
    found = kept(random_rescale, delta, block=100, density=0.5, rescale="l1")
    assert float(found.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    assert kept(random_rescale, torch.zeros(5), density=0.5, rescale="l1").tolist() == [0.0] * 5


def test_masks_depend_on_names_and_places_and_not_on_length() -> None:
    mask = keep_mask(1000, 0.5, 0, "random mask", "v", "t", 0)
    assert np.array_equal(mask[:77], keep_mask(77, 0.5, 0, "random mask", "v", "t", 0))
    for seed, *key in ((1, "v", "t", 0), (0, "w", "t", 0), (0, "v", "u", 0), (0, "v", "t", 1 << 20)):
        assert not np.array_equal(mask, keep_mask(1000, 0.5, seed, "random mask", *key))


def test_masks_are_the_same_everywhere_and_always() -> None:
    # Recorded 2026-11-22: a change here changes every DARE merge that anybody has made.
    bits = keep_mask(64, 0.5, 0, "random mask", "v", "t", 0)
    assert "".join(str(int(bit)) for bit in bits) == "0110111001110000110110000000110010001110101011100110101100001011"
