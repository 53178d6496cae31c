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
from aftermix.training.optimizers.noise import BLOCK, FreshNoise, TableNoise
from aftermix.training.optimizers.offset import Draw, Offset, move
from aftermix.training.optimizers.placement import Placement

CPU = torch.device("cpu")
REFERENCE = {"laplace": stats.laplace, "gaussian": stats.norm}


def samples(source: FreshNoise | TableNoise, blocks: int) -> np.ndarray:
    return torch.cat([source.block(("w", 0), index, BLOCK, CPU).clone() for index in range(blocks)]).double().numpy()


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
    found = FreshNoise("laplace", 5).block(("w", 2), 0, 5, CPU)
    np.testing.assert_allclose(found.numpy(), np.sign(u[:5]) * np.log(abs(u[:5])), rtol=2e-6, atol=2e-7)


def test_extreme_bits_give_finite_noise() -> None:
    from aftermix.training.optimizers.noise import _gaussian, _laplace

    bits = np.array([0, -1, 2**31 - 1, -(2**31)], dtype=np.int32)
    assert _laplace(bits).tolist() == pytest.approx([-32 * math.log(2), 32 * math.log(2), 0.0, 0.0], abs=1e-6)
    assert np.isfinite(_gaussian(bits)).all()


def test_streams_differ_by_seed_step_name_and_block() -> None:
    keys = [(0, ("w", 0), 0), (1, ("w", 0), 0), (0, ("v", 0), 0), (0, ("w", 1), 0), (0, ("w", 0), 1)]
    for kind in (FreshNoise, TableNoise):
        found = [kind("laplace", seed).block(key, index, 64, CPU).clone() for seed, key, index in keys]
        assert len({tuple(values.tolist()) for values in found}) == len(keys)
        again = kind("laplace", 0).block(("w", 0), 0, 64, CPU)
        assert torch.equal(again, found[0])


def test_parts_of_a_block_are_its_beginning() -> None:
    source = FreshNoise("gaussian", 1)
    whole = source.block(("w",), 0, 1001, CPU).clone()
    assert torch.equal(source.block(("w",), 0, 37, CPU), whole[:37])


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), columns=st.sampled_from([1, 7, 5000, BLOCK + 3]), cut=st.data(), parts=st.integers(1, 3))
def test_a_shard_moves_as_its_part_of_the_whole(rows: int, columns: int, cut: st.DataObject, parts: int) -> None:
    offset = Offset(factor=1e-3, constant=2e-4, draws=2)
    source, key = FreshNoise("laplace", 0), ("w", 4)
    base = torch.linspace(-1, 1, rows * columns).view(rows, columns)
    whole = base.clone()
    move(Placement(whole, (rows, columns), (0, 0)), offset, source, key)
    edges = sorted({0, rows, *(cut.draw(st.integers(0, rows)) for _ in range(parts))})
    middle = cut.draw(st.integers(0, columns))
    for first, last in itertools.pairwise(edges):
        shard = base[first:last].clone()
        move(Placement(shard, (rows, columns), (first, 0)), offset, source, key)
        assert torch.equal(shard, whole[first:last])
        corner = base[first:last, middle:].clone()
        move(Placement(corner, (rows, columns), (first, middle)), offset, source, key)
        assert torch.equal(corner, whole[first:last, middle:])


def test_scalars_empty_shards_and_other_strides() -> None:
    offset, source = Offset(factor=1.0, constant=0.0), FreshNoise("laplace", 0)
    scalar = torch.zeros(())
    move(Placement(scalar, (), ()), offset, source, ("s",))
    assert scalar.item() == source.block(("s", 0), 0, 1, CPU).item() != 0
    move(Placement(torch.zeros(0, 3), (2, 3), (2, 0)), offset, source, ("e",))
    plain, turned = torch.zeros(4, 6), torch.zeros(6, 4).t()
    for target in (plain, turned):
        move(Placement(target, (4, 6), (0, 0)), offset, source, ("t",))
    assert torch.equal(plain, turned)


def test_draws_cover_the_configurations_evenly() -> None:
    coefficients = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    draws = [Draw.of_step(0, step, coefficients=coefficients, max_experts=7) for step in range(4200)]
    counts = np.zeros((6, 7))
    for draw in draws:
        counts[coefficients.index(draw.coefficient), draw.experts - 1] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_offsets_by_hand() -> None:
    draw = Draw(coefficient=0.5, experts=4)
    assert draw.paper(scale=2.0, location=3.0) == Offset(factor=2.0, constant=3.0, draws=1, pull=0.0)
    assert draw.own_vector(scale=2.0, location=3.0) == Offset(factor=1.0, constant=1.5, draws=3, pull=-0.5)
    assert Draw(0.2, 5).paper(scale=2.0, location=3.0).is_nothing
    assert not Draw(0.2, 1).own_vector(scale=0.0, location=0.0).is_nothing
