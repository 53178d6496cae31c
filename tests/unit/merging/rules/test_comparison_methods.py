"""The rules of DELLA, Model Breadcrumbs and TALL masks against slow twins that follow the definitions row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, MergeError
from aftermix.merging.merge import Merger
from aftermix.merging.methods import bind
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.rules.inter import consensus
from aftermix.merging.rules.intra import TensorKey, band, magnitude_sampled
from aftermix.merging.stream import stream_merged_tensors
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.merging.topk.rows import rank_by_row
from aftermix.seeds import keep_mask

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.one_of(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0]), st.floats(-4, 4, width=32)),
)


def in_rows(values: np.ndarray, rows: int) -> tuple[TensorBlocks, TensorKey]:
    """A matrix in blocks of `rows` rows."""
    flat, size = torch.from_numpy(values.copy()).reshape(-1), rows * values.shape[1]
    bounds = [(start, min(start + size, len(flat))) for start in range(0, len(flat), size)]
    blocks = TensorBlocks(bounds, lambda bounds: flat[bounds[0] : bounds[1]].clone())
    return blocks, TensorKey(0, "v", "t", values.size, values.shape[1])


def applied(rule: object, values: np.ndarray, rows: int, **options: object) -> np.ndarray:
    blocks, place = in_rows(values, rows)
    keeper = rule(blocks, place, **options)  # type: ignore[operator]
    return np.concatenate([keeper(block, start) for block, (start, _) in zip(blocks, blocks.spans, strict=True)])


def falling_order(row: np.ndarray) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (-abs(float(row[i])), i))


@given(values=MATRICES)
@settings(max_examples=100)
def test_places_are_those_of_a_sort_of_each_row(values: np.ndarray) -> None:
    found = rank_by_row(torch.from_numpy(values.copy()).reshape(-1), values.shape[1]).reshape(values.shape)
    for row, places in zip(values, found, strict=True):
        assert np.argsort(places).tolist() == falling_order(row)


@given(values=MATRICES, rows=st.integers(1, 4), density=st.floats(0.05, 1), epsilon=st.floats(0, 0.4))
@settings(max_examples=100)
def test_magnitude_sampled_follows_its_definition(
    values: np.ndarray, rows: int, density: float, epsilon: float
) -> None:
    found = applied(magnitude_sampled, values, rows, density=density, epsilon=epsilon)
    width, position = values.shape[1], 0
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        chances = np.empty(part.shape)
        for row, chance in zip(part, chances, strict=True):
            for place, index in enumerate(falling_order(row)):
                rank = 1 - place / (width - 1) if width > 1 else 0.5
                chance[index] = min(max(density - epsilon + 2 * epsilon * rank, 0.0), 1.0)
        mask = keep_mask(part.size, chances.reshape(-1), 0, "magnitude sampled", "v", "t", position)
        for value, chance, kept in zip(part.reshape(-1), chances.reshape(-1), mask, strict=True):
            assert found[position] == pytest.approx(float(value) / chance if kept else 0.0, rel=1e-6)
            position += 1


def test_larger_entries_of_a_row_are_kept_more_often_and_the_expectation_stays() -> None:
    values = np.tile(np.linspace(0.1, 1, 10, dtype=np.float32), (20_000, 1))
    found = applied(magnitude_sampled, values, 1000, density=0.5, epsilon=0.2).reshape(values.shape)
    shares = (found != 0).mean(axis=0)
    wanted = 0.3 + 0.4 * np.linspace(0, 1, 10)
    assert np.abs(shares - wanted).max() < 5 * 0.5 / math.sqrt(20_000)
    assert np.allclose(found.mean(axis=0), values[0], rtol=0.05)


def test_magnitude_sampled_rescales_to_the_norm_or_not_at_all() -> None:
    values = np.random.default_rng(0).normal(size=(40, 25)).astype(np.float32)
    by_chance, to_norm, plain = (
        applied(magnitude_sampled, values, 7, density=0.5, epsilon=0.2, rescale=rescale).reshape(values.shape)
        for rescale in ("probability", "l1", "none")
    )
    kept = plain != 0
    assert np.array_equal(plain[kept], values[kept])
    assert np.array_equal(kept, by_chance != 0)
    assert np.array_equal(kept, to_norm != 0)
    assert float(np.abs(to_norm).sum()) == pytest.approx(float(np.abs(values).sum()), rel=1e-5)
    assert np.allclose(to_norm[kept] / values[kept], np.abs(values).sum() / np.abs(values[kept]).sum(), rtol=1e-5)
    assert applied(magnitude_sampled, np.zeros((2, 3), dtype=np.float32), 1, rescale="l1").tolist() == [0.0] * 6


@given(values=MATRICES, rows=st.integers(1, 4), density=st.floats(0.05, 1), gamma=st.floats(0, 0.9))
@settings(max_examples=150)
@pytest.mark.parametrize("scope", ["tensor", "row"])
@pytest.mark.parametrize("excess", ["density", "gamma"])
def test_band_follows_its_definition(
    scope: str, excess: str, values: np.ndarray, rows: int, density: float, gamma: float
) -> None:
    options = {"density": density, "gamma": gamma, "scope": scope, "excess": excess}
    found = applied(band, values, rows, **options).reshape(values.shape)
    groups = values if scope == "row" else values.reshape(1, -1)
    wanted = np.zeros_like(groups)
    for row, result in zip(groups, wanted, strict=True):
        count = len(row)
        kept = max(1, math.floor(density * count * (1 + 1e-12)))
        dropped = math.floor(gamma * count * (1 + 1e-12))
        if excess == "gamma":
            dropped = min(dropped, count - kept)
        dropped = min(dropped, count - 1)
        chosen = falling_order(row)[dropped : dropped + kept]
        result[chosen] = row[chosen]
    assert np.array_equal(found, wanted.reshape(values.shape))


@given(data=st.data(), lam=st.floats(0.1, 2), agreement=st.integers(1, 4))
@settings(max_examples=100)
def test_consensus_follows_its_definition(data: st.DataObject, lam: float, agreement: int) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    count = data.draw(st.integers(2, 4))
    values = st.sampled_from([0.0, 0.25, -0.25, 1.0, -1.0, 2.0, -3.0])
    tensors = [data.draw(hnp.arrays(np.float32, shape, elements=values)) for _ in range(count)]
    weights = [0.5, -0.25, 1.0, 2.0][:count]
    found = consensus([torch.from_numpy(t.copy()) for t in tensors], weights, lam=lam, agreement=agreement).numpy()
    for index in np.ndindex(shape):
        parts = [np.float32(t[index]) for t in tensors]
        total = sum(parts)
        votes = sum(abs(part) > np.float32(lam) * abs(total - part) for part in parts)
        merged = sum(w * part for w, part in zip(weights, parts, strict=True))
        assert found[index] == pytest.approx(merged if votes >= min(agreement, count) else 0.0, rel=1e-6)


def test_a_single_vector_is_its_own_consensus() -> None:
    assert consensus([torch.tensor([0.1, -2.0])], [0.5]).tolist() == pytest.approx([0.05, -1.0])


def test_a_threshold_by_vector_goes_with_its_vector(untied_family: Mapping[str, Path]) -> None:
    def merged(lam: object, weights: Mapping[str, float]) -> dict[str, torch.Tensor]:
        vectors = {name: VectorConfig(model=str(untied_family[name])) for name in weights}
        settings = MergeConfig.model_validate({"method": "tall_mask", "lam": lam, "agreement": 1})
        pool = open_pool(Config(base=str(untied_family["base"]), vectors=vectors, merge=settings))
        return dict(stream_merged_tensors(Merger.build(pool, MergeRecipe.from_config(settings)), weights))

    weights = {"a": 0.5, "b": 0.25, "c": 0.0}
    by_name = merged({"c": 0.1, "b": 50.0, "a": 0.3}, weights)
    other = merged({"c": 50.0, "b": 0.3, "a": 0.1}, weights)
    base, a, b = (dict(stored(untied_family[name])) for name in ("base", "a", "b"))
    moved = 0
    for name, start in base.items():
        deltas = [a[name] - start, b[name] - start]  # c has weight 0 and takes no part
        wanted = consensus(deltas, [0.5, 0.25], lam={"a": 0.3, "b": 50.0}, agreement=1)
        assert torch.allclose(by_name[name] - start, wanted, atol=1e-6)
        moved += int((by_name[name] != other[name]).sum())
    assert moved > 100
    everywhere = merged(0.3, weights)
    alike = merged({"a": 0.3, "b": 0.3, "c": 0.3}, weights)
    assert all(tensor.equal(alike[name]) for name, tensor in everywhere.items())
    with pytest.raises(MergeError) as caught:
        merged({"a": 0.3, "d": 0.2}, weights)
    assert str(caught.value) == (
        "merge.lam: is for a, d, the vectors are a, b, c. Give one number for all vectors, or one for each."
    )
    with pytest.raises(AftermixError, match=r"merge.lam.*greater than 0"):
        bind(MergeConfig.model_validate({"method": "tall_mask", "lam": {"a": 0}}))


def stored(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in folder.glob("*.safetensors"):
        yield from load_file(file).items()
