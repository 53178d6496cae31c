"""Parameter competition against a slow twin that sorts, entry by entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aftermix.checkpoints.model import TensorInfo
from aftermix.config import MergeConfig
from aftermix.errors import ManyProblemsError
from aftermix.merging.methods import bind
from aftermix.merging.rules.pcb import pcb, survey_competition
from aftermix.merging.topk.magnitude import TensorBlocks, count_share

Values = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.25]), st.floats(-2, 2, width=32))


def merged(
    tensors: Sequence[np.ndarray], weights: Sequence[float], *, size: int = 4, **options: float | str
) -> np.ndarray:
    flat = [torch.from_numpy(np.array(tensor, dtype=np.float32)) for tensor in tensors]
    bounds = [(start, min(start + size, len(flat[0]))) for start in range(0, len(flat[0]), size)]
    blocks = [TensorBlocks(bounds, lambda run, tensor=tensor: tensor[slice(*run)].clone()) for tensor in flat]
    found = survey_competition(blocks, TensorInfo("t", (len(flat[0]),), torch.float32, Path()), **options)
    combiner = pcb(found, weights)
    return torch.cat([combiner([block.read(run) for block in blocks], run[0]) for run in bounds]).numpy()


def twin(
    tensors: Sequence[np.ndarray], weights: Sequence[float], *, density: float, clamp: float
) -> tuple[np.ndarray, np.ndarray]:
    """The merge, and where float32 can be expected to give it: no scores too close to a floor or to each other."""
    vectors, count, size = [tensor.astype(np.float64) for tensor in tensors], len(tensors), len(tensors[0])
    total = sum(vectors)
    above, below, clear = 0.0 * vectors[0], 0.0 * vectors[0], np.ones(size, dtype=bool)
    for vector, weight in zip(vectors, weights, strict=True):
        order = sorted(abs(float(value)) for value in vector)
        low, high = order[int(size * clamp)], order[size - 1 - min(math.ceil(size * clamp), size - 1)]
        bounded = [min(max(abs(float(value)), low), high) for value in vector]
        scaled = [(value - low) / (high - low) if high > low else 0.0 for value in bounded]
        agreed = [math.tanh(float(value) * float(whole)) for value, whole in zip(vector, total, strict=True)]
        scores = [math.exp(count * own**2) * other for own, other in zip(scaled, agreed, strict=True)]
        kept = max(1, count_share(size, density))
        floor, top = sorted(scores)[size - kept], max(scores)
        step = 1e-4 * max(abs(top), abs(floor))
        if any(0 < abs(score - floor) < step for score in scores):
            clear[:] = False
        for entry, score in enumerate(scores):
            share = max(score - floor, 0.0) / (top - floor) if top > floor and count > 1 else float(score >= floor)
            above[entry] += weight * math.copysign(bounded[entry], vector[entry]) * (vector[entry] != 0) * share
            below[entry] += share
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0), clear & ((below == 0) | (below > 1e-2))


@given(
    seed=st.integers(0, 100_000),
    count=st.integers(1, 5),
    elements=st.integers(1, 40),
    size=st.integers(1, 45),
    density=st.floats(0.02, 1),
    clamp=st.sampled_from([0.0, 0.0001, 0.1, 0.4]),
)
@settings(max_examples=150)
def test_competition_follows_its_definition(
    seed: int, count: int, elements: int, size: int, density: float, clamp: float
) -> None:
    random = np.random.default_rng(seed)
    scale = [1.0, 0.05][seed % 2]
    tensors = [(scale * random.normal(size=elements)).astype(np.float32) for _ in range(count)]
    weights = random.uniform(-1, 1, count).tolist()
    found = merged(tensors, weights, size=size, density=density, clamp=clamp)
    wanted, clear = twin(tensors, weights, density=density, clamp=clamp)
    np.testing.assert_allclose(found[clear], wanted[clear], rtol=1e-3, atol=1e-4 * scale)


def softmax(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    powers = [math.exp(value) for value in values] if high > low else [1.0 for _ in values]
    return [power / sum(powers) for power in powers]


def scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else 0 * values


def softmax_twin(tensors: Sequence[np.ndarray], weights: Sequence[float], *, density: float) -> np.ndarray:
    vectors, count, size = [tensor.astype(np.float64) for tensor in tensors], len(tensors), len(tensors[0])
    above, below = np.zeros(size), np.zeros(size)
    for vector, weight in zip(vectors, weights, strict=True):
        own = softmax(count * scaled(vector**2))
        against = [softmax(scaled(vector * other)) for other in vectors]
        scores = [own[entry] * sum(column[entry] for column in against) for entry in range(size)]
        floor = sorted(scores)[size - max(1, count_share(size, density))]
        for entry, score in enumerate(scores):
            share = (score if count > 1 else 1.0) * (score >= floor)
            above[entry] += weight * vector[entry] * share
            below[entry] += share
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


@given(
    seed=st.integers(0, 100_000),
    count=st.integers(1, 5),
    elements=st.integers(1, 40),
    size=st.integers(1, 45),
    density=st.floats(0.02, 1),
)
@settings(max_examples=100)
def test_softmax_scores_follow_the_paper(seed: int, count: int, elements: int, size: int, density: float) -> None:
    random = np.random.default_rng(seed)
    tensors = [random.normal(size=elements).astype(np.float32) for _ in range(count)]
    weights = random.uniform(-1, 1, count).tolist()
    found = merged(tensors, weights, size=size, density=density, scores="softmax")
    np.testing.assert_allclose(found, softmax_twin(tensors, weights, density=density), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scores", ["tanh", "softmax"])
@given(data=st.data(), count=st.integers(1, 4), density=st.floats(0.01, 1), size=st.integers(1, 12))
@settings(max_examples=150)
def test_whatever_the_tensors_the_result_is_finite_and_no_larger_than_they_are(
    scores: str, data: st.DataObject, count: int, density: float, size: int
) -> None:
    shape = data.draw(st.integers(1, 12))
    tensors = [data.draw(hnp.arrays(np.float32, shape, elements=Values)) for _ in range(count)]
    found = merged(tensors, [1.0] * count, size=size, density=density, scores=scores)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= np.abs(np.array(tensors)).max(axis=0) * (1 + 1e-6)).all()
    again = merged(tensors, [1.0] * count, size=12, density=density, scores=scores)
    if scores == "tanh":  # its facts are order statistics, which no block size changes
        np.testing.assert_array_equal(found, again)


def test_a_vector_without_agreement_loses_its_entries() -> None:
    a, b = np.array([4.0, 1.0, 1.0, 0.1]), np.array([-1.0, 1.0, 3.0, 0.1])
    found = merged([a, b], [1, 1], density=0.5)
    assert found[0] == pytest.approx(4.0)
    assert found[2] == pytest.approx(3.0)
    assert found[3] == 0


def test_a_vector_alone_keeps_what_reaches_its_floor() -> None:
    values = np.array([0.5, -2.0, 0.1, 1.0])
    assert merged([values], [1.0], density=1.0).tolist() == pytest.approx(values.tolist())
    assert merged([values], [0.5], density=0.5).tolist() == [0.0, -1.0, 0.0, 0.5]
    assert merged([0 * values], [1.0], density=0.5).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("scores", ["tanh", "softmax"])
def test_many_vectors_do_not_overflow(scores: str) -> None:
    count = 90  # e^90 is beyond float32
    tensors = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    assert np.isfinite(merged(list(tensors), [1.0] * count, density=0.5, scores=scores)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e18])
def test_tiny_and_huge_vectors_give_numbers(scale: float) -> None:
    tensors = [np.random.default_rng(seed).normal(size=30).astype(np.float32) * np.float32(scale) for seed in (0, 1)]
    found = merged(tensors, [1.0, 1.0], density=0.5)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= np.abs(tensors).max(axis=0) * (1 + 1e-6)).all()


def test_options_of_the_survey_are_checked_with_the_others() -> None:
    assert bind(MergeConfig(method="pcb")).options == {"density": 0.1, "scores": "tanh", "clamp": 0.0}
    with pytest.raises(ManyProblemsError, match=r"merge\.clamp: Input should be less than 0\.5, found 0\.5"):
        bind(MergeConfig.model_validate({"method": "pcb", "clamp": 0.5}))
