"""Noise: its distribution, and that it belongs to a place in a parameter, not to a shard of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aftermix.seeds import derived_seed
from aftermix.training.optimizers.laplace_sums import (
    LARGEST,
    MOST_SUMMANDS,
    compute_exponentials,
    compute_sum_magnitudes,
)
from aftermix.training.optimizers.local_shard import LocalShard
from aftermix.training.optimizers.noise import BLOCK, FreshNoise, TableNoise
from aftermix.training.optimizers.perturbation import MergeDraw, Perturbation, move_shard

CPU = torch.device("cpu")
REFERENCE = {"laplace": stats.laplace, "gaussian": stats.norm}


def samples(source: FreshNoise | TableNoise, blocks: int) -> np.ndarray:
    return (
        torch.cat([source.draw_block(("w", 0), index, BLOCK, CPU).clone() for index in range(blocks)]).double().numpy()
    )


@pytest.mark.parametrize("kind", [FreshNoise, TableNoise])
@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
def test_follows_the_distribution(kind: type, distribution: str) -> None:
    values = samples(kind(distribution, 3), 4)
    found = stats.kstest(values, REFERENCE[distribution].cdf)
    assert found.pvalue > 1e-3
    assert np.isfinite(values).all()
    tails = {"laplace": math.exp(-6), "gaussian": 2 * stats.norm.sf(3.5)}[distribution]
    limit = {"laplace": 6, "gaussian": 3.5}[distribution]
    assert (abs(values) > limit).mean() == pytest.approx(tails, rel=0.35)
    assert abs(np.corrcoef(values[0::2], values[1::2])[0, 1]) < 0.02


def test_laplace_is_a_signed_exponential_of_the_raw_bits() -> None:
    raw = np.random.SFC64(derived_seed(5, "noise", "w", 2, 0)).random_raw(3).astype("<u8").view("<i4")
    u = (raw.astype(np.float64) + 0.5) / 2**31
    found = FreshNoise("laplace", 5).draw_block(("w", 2), 0, 5, CPU)
    np.testing.assert_allclose(found.numpy(), np.sign(u[:5]) * np.log(abs(u[:5])), rtol=2e-6, atol=2e-7)


def test_extreme_bits_give_finite_noise() -> None:
    from aftermix.training.optimizers.noise import _draw_gaussian, _draw_laplace

    bits = np.array([0, -1, 2**31 - 1, -(2**31)], dtype=np.int32)
    assert _draw_laplace(bits).tolist() == pytest.approx([-32 * math.log(2), 32 * math.log(2), 0.0, 0.0], abs=1e-6)
    assert np.isfinite(_draw_gaussian(bits)).all()


def test_streams_differ_by_seed_step_name_and_block() -> None:
    keys = [(0, ("w", 0), 0), (1, ("w", 0), 0), (0, ("v", 0), 0), (0, ("w", 1), 0), (0, ("w", 0), 1)]
    for kind in (FreshNoise, TableNoise):
        found = [kind("laplace", seed).draw_block(key, index, 64, CPU).clone() for seed, key, index in keys]
        assert len({tuple(values.tolist()) for values in found}) == len(keys)
        again = kind("laplace", 0).draw_block(("w", 0), 0, 64, CPU)
        assert torch.equal(again, found[0])


def test_gaussian_noise_is_box_and_mullers_from_the_raw_bits() -> None:
    raw = np.random.SFC64(derived_seed(5, "noise", "w", 0)).random_raw(3).astype("<u8").view("<i4")
    u, v = (abs(raw[:3] + 0.5) / 2**31, raw[3:] / 2**31)
    expected = np.concatenate([np.sqrt(-2 * np.log(u)) * turn(np.pi * v) for turn in (np.cos, np.sin)])
    found = FreshNoise("gaussian", 5).draw_block(("w",), 0, 5, CPU)
    np.testing.assert_allclose(found.numpy(), expected[:5], rtol=2e-6, atol=2e-6)


def sum_tail(x: np.ndarray, summands: int) -> np.ndarray:
    """`P(|S| > x)` by quadrature: `S` is the difference of two Gamma samples."""
    first = stats.gamma(summands)
    grid = (np.arange(4000) + 0.5) / 4000
    return np.array([2 * first.sf(first.ppf(grid) + value).mean() for value in x])


@pytest.mark.parametrize("summands", [2, 3, 6, 13, 40])
def test_a_sum_of_laplace_noise_follows_its_distribution(summands: int) -> None:
    x = np.linspace(0.0, 6.0, 5) * math.sqrt(summands)
    np.testing.assert_allclose(np.exp(-compute_exponentials(x, summands)), sum_tail(x, summands), rtol=0.02)
    values = FreshNoise("laplace", 3).draw_block(("w", 0), 0, BLOCK, CPU, summands=summands).double().numpy()

    def cdf(at: np.ndarray) -> np.ndarray:
        half = np.exp(-compute_exponentials(np.abs(at), summands)) / 2
        return np.where(at < 0, half, 1 - half)

    assert stats.kstest(values, cdf).pvalue > 1e-3
    drawn = FreshNoise("laplace", 4)
    one_by_one = sum(drawn.draw_block(("v", j), 0, BLOCK, CPU).double().numpy() for j in range(summands))
    assert stats.ks_2samp(values, one_by_one).pvalue > 1e-3
    assert values.var() == pytest.approx(2 * summands, rel=0.04)
    assert stats.kurtosis(values) == pytest.approx(3 / summands, abs=0.25)


@pytest.mark.parametrize("summands", range(2, MOST_SUMMANDS + 1))
def test_magnitudes_of_sums_solve_their_equation(summands: int) -> None:
    wanted = np.linspace(0.0, 1.0, 301) ** 3 * LARGEST
    found = compute_sum_magnitudes(wanted.astype(np.float32), summands).astype(np.float64)
    slope = np.gradient(compute_exponentials(found, summands), found)
    error = (compute_exponentials(np.maximum(found, 0.0), summands) - wanted) / slope
    assert np.abs(error / (1 + found)).max() < 1e-5


def test_sums_of_gaussian_and_of_table_noise() -> None:
    gaussian = FreshNoise("gaussian", 1)
    expected = gaussian.draw_block(("w",), 0, 100, CPU) * 2
    assert torch.equal(gaussian.draw_block(("w",), 0, 100, CPU, summands=4), expected)
    for source, summands in ((TableNoise("laplace", 1), 3), (FreshNoise("laplace", 1), MOST_SUMMANDS + 1)):
        keys = [("w",), *(("w", "summand", number) for number in range(1, summands))]
        parts = torch.stack([source.draw_block(key, 0, 50, CPU).clone() for key in keys])
        found = source.draw_block(("w",), 0, 50, CPU, summands=summands)
        torch.testing.assert_close(found, parts.sum(0), rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(rows=st.integers(1, 9), columns=st.sampled_from([1, 7, 5000, BLOCK + 3]), cut=st.data(), parts=st.integers(1, 3))
@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
def test_a_shard_moves_as_its_part_of_the_whole(
    distribution: str, rows: int, columns: int, cut: st.DataObject, parts: int
) -> None:
    offset = Perturbation(factor=1e-3, constant=2e-4, draws=2)
    source, key = FreshNoise(distribution, 0), ("w", 4)
    base = torch.linspace(-1, 1, rows * columns).view(rows, columns)
    whole = base.clone()
    move_shard(LocalShard(whole, (rows, columns), (0, 0)), offset, source, key)
    edges = sorted({0, rows, *(cut.draw(st.integers(0, rows)) for _ in range(parts))})
    middle = cut.draw(st.integers(0, columns))
    for first, last in itertools.pairwise(edges):
        shard = base[first:last].clone()
        move_shard(LocalShard(shard, (rows, columns), (first, 0)), offset, source, key)
        assert torch.equal(shard, whole[first:last])
        corner = base[first:last, middle:].clone()
        move_shard(LocalShard(corner, (rows, columns), (first, middle)), offset, source, key)
        assert torch.equal(corner, whole[first:last, middle:])


def test_scalars_empty_shards_and_other_strides() -> None:
    offset, source = Perturbation(factor=1.0, constant=0.0), FreshNoise("laplace", 0)
    scalar = torch.zeros(())
    move_shard(LocalShard(scalar, (), ()), offset, source, ("s",))
    assert scalar.item() == source.draw_block(("s", 0), 0, 1, CPU).item() != 0
    move_shard(LocalShard(torch.zeros(0, 3), (2, 3), (2, 0)), offset, source, ("e",))
    plain, turned = torch.zeros(4, 6), torch.zeros(6, 4).t()
    for target in (plain, turned):
        move_shard(LocalShard(target, (4, 6), (0, 0)), offset, source, ("t",))
    assert torch.equal(plain, turned)


def test_draws_cover_the_configurations_evenly() -> None:
    coefficients = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    draws = [MergeDraw.draw_for_step(0, step, coefficients=coefficients, max_experts=7) for step in range(4200)]
    counts = np.zeros((6, 7))
    for draw in draws:
        counts[coefficients.index(draw.coefficient), draw.experts - 1] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_offsets_by_hand() -> None:
    draw = MergeDraw(coefficient=0.5, experts=4)
    assert draw.build_paper_perturbation(scale=2.0, location=3.0) == Perturbation(
        factor=2.0, constant=3.0, draws=1, pull=0.0
    )
    assert draw.build_own_vector_perturbation(scale=2.0, location=3.0) == Perturbation(
        factor=1.0, constant=4.5, draws=3, pull=-0.5
    )
    assert MergeDraw(0.2, 5).build_paper_perturbation(scale=2.0, location=3.0).is_nothing
    assert not MergeDraw(0.2, 1).build_own_vector_perturbation(scale=0.0, location=0.0).is_nothing
