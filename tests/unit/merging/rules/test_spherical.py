"""SLERP, the Karcher mean and model stock against slow twins that work on the whole vectors, not on inner products."""

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
from aftermix.config import Config, MergeConfig, VectorConfig, parse_config
from aftermix.errors import AftermixError, MergeError
from aftermix.jobs.merge.command import merge
from aftermix.merging.methods import bind
from aftermix.merging.rules.model_stock import survey_interpolation
from aftermix.merging.rules.surveys import (
    compute_gram,
    compute_norms_and_cosines,
    compute_row_grams,
    cut_slices,
    read_whole_tensors,
)
from aftermix.merging.topk.magnitude import TensorBlocks

Values = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(-4, 4, width=32))
SHAPES = st.one_of(st.just(()), st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 7)))


def info_of(shape: Sequence[int]) -> TensorInfo:
    return TensorInfo("t", tuple(shape), torch.float32, Path())


def in_blocks(values: np.ndarray, size: int) -> TensorBlocks:
    flat = torch.from_numpy(np.array(values, dtype=np.float32).reshape(-1))
    bounds = [(start, min(start + size, len(flat))) for start in range(0, len(flat), size)]
    return TensorBlocks(bounds, lambda bounds: flat[slice(*bounds)].clone())


def combined(
    method: str, tensors: Sequence[np.ndarray], weights: Sequence[float], *, size: int = 4, **options: object
) -> np.ndarray:
    """The method on whole tensors, in blocks of `size` elements."""
    bound = bind(MergeConfig.model_validate({"method": method, **options}))
    blocks = [in_blocks(tensor, size) for tensor in tensors]
    combiner = bound.build_combiner(bound.survey_tensors(blocks, info_of(tensors[0].shape)), list(weights))
    parts = [combiner([tensor.read(bounds) for tensor in blocks], bounds[0]) for bounds in blocks[0].spans]
    return torch.cat(parts).double().numpy().reshape(tensors[0].shape)


def drawn(data: st.DataObject, count: int) -> list[np.ndarray]:
    shape = data.draw(SHAPES)
    return [data.draw(hnp.arrays(np.float32, shape, elements=Values)) for _ in range(count)]


def assert_near(found: np.ndarray, wanted: np.ndarray, terms: Sequence[np.ndarray]) -> None:
    largest = max([float(np.abs(term).max(initial=0)) for term in terms] + [1e-30])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * largest)


def slerp_twin(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    x, y = first.astype(np.float64), second.astype(np.float64)
    lengths = math.sqrt((x * x).sum()), math.sqrt((y * y).sum())
    if min(lengths) == 0:
        return (1 - share) * x + share * y
    cosine = float((x / lengths[0] * (y / lengths[1])).sum())
    if abs(cosine) > 0.9995:
        return (1 - share) * x + share * y
    angle = math.acos(cosine)
    return (math.sin((1 - share) * angle) * x + math.sin(share * angle) * y) / math.sin(angle)


@given(data=st.data(), weights=st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)), size=st.integers(1, 12))
@settings(max_examples=150)
def test_slerp_follows_its_definition(data: st.DataObject, weights: tuple[float, float], size: int) -> None:
    tensors = drawn(data, 2)
    found = combined("slerp", tensors, weights, size=size)
    wanted = slerp_twin(*tensors, weights[1] / sum(weights))
    assert_near(found, wanted, [tensor * 40 for tensor in tensors])


def test_slerp_goes_along_the_circle_and_linearly_where_there_is_none() -> None:
    x, y = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    np.testing.assert_allclose(combined("slerp", [x, y], [1, 1]), [math.sqrt(2), math.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(combined("slerp", [x, y], [2, 1]), [2 * math.cos(math.pi / 6), 1], rtol=1e-6)
    np.testing.assert_allclose(combined("slerp", [x, y], [2, -1]), [2 * math.cos(math.pi / 2), -2], atol=1e-6)
    np.testing.assert_allclose(combined("slerp", [x, -x], [3, 1]), [1, 0], rtol=1e-6)
    np.testing.assert_allclose(combined("slerp", [x, 0 * x], [3, 1]), [1.5, 0], rtol=1e-6)
    np.testing.assert_allclose(combined("slerp", [0 * x, 0 * x], [3, 1]), [0, 0])
    np.testing.assert_allclose(combined("slerp", [x, 2 * x], [1, 1]), [3, 0], rtol=1e-6)


@pytest.mark.parametrize("method", ["nuslerp", "nuslerp_deltas"])
def test_nuslerp_goes_along_the_circle_however_near_the_two_are(method: str) -> None:
    x, angle = np.array([2.0, 0.0]), 0.01  # a cosine of 0.99995: slerp takes the chord
    y = np.array([2 * math.cos(angle), 2 * math.sin(angle)])
    found = combined(method, [x, 4 * y], [1, 3])
    wanted = (math.sin(angle / 4) * x + 4 * math.sin(3 * angle / 4) * y) / math.sin(angle)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(combined(method, [x, -x], [3, 1]), [1, 0], rtol=1e-6)
    third = combined(method, [x, y, np.array([0.0, 3.0])], [1, 2, 3])
    first = combined(method, [x, y], [1, 2])
    np.testing.assert_allclose(third, combined(method, [first, np.array([0.0, 3.0])], [3, 3]), rtol=1e-6)
    zero = combined(method, [x, 0 * x], [3, 1])
    np.testing.assert_allclose(zero, [2 * math.sin(0.75 * math.pi / 2), 0], rtol=1e-6)


def sce_twin(tensors: Sequence[np.ndarray], weights: Sequence[float], share: float) -> np.ndarray:
    """Entry by entry, on the formula."""
    rows = np.stack([tensor.astype(np.float64).reshape(-1) for tensor in tensors])
    if share < 1:
        variance = rows.var(axis=0)
        count = int((variance > 0).sum() * share)
        rows = rows * np.isin(np.arange(rows.shape[1]), np.argsort(-variance, kind="stable")[:count])
    energies = (rows**2).mean(axis=1)
    energies = energies / energies.sum() if energies.sum() >= 1e-6 else np.full(len(rows), 1 / len(rows))
    energies = energies * np.array(weights) / np.mean(weights)
    result = np.zeros(rows.shape[1])
    for entry, column in enumerate(rows.T):
        sign = 1 if column.sum() >= 0 else -1
        chosen = [place for place, value in enumerate(column) if np.sign(value) == sign]
        total = sum(energies[place] for place in chosen)
        result[entry] = sum(energies[place] * column[place] for place in chosen) / max(total, 1e-6)
    return result.reshape(tensors[0].shape)


@pytest.mark.parametrize(("share", "scale"), [(1.0, 1.0), (0.1, 1.0), (0.6, 0.1), (0.6, 1e-4), (0.0, 1.0)])
def test_sce_selects_weighs_and_erases(share: float, scale: float) -> None:
    random = np.random.default_rng(3)
    tensors = [(scale * random.normal(size=(6, 7))).astype(np.float32) for _ in range(3)]
    found = combined("sce", tensors, [1.0, 1.0, 1.0], select_topk=share)
    assert_near(found, sce_twin(tensors, [1, 1, 1], share), tensors)
    weighed = combined("sce", tensors, [1.0, 2.0, 0.5], select_topk=share)
    assert_near(weighed, sce_twin(tensors, [1, 2, 0.5], share), tensors)
    assert (np.abs(found) > 0).mean() == pytest.approx(share, abs=0.05)


def karcher_twin(tensors: Sequence[np.ndarray], weights: Sequence[float], steps: int, tolerance: float) -> np.ndarray:
    """On the vectors themselves, as a walk on the sphere."""
    flat = [tensor.astype(np.float64).reshape(-1) for tensor in tensors]
    shares = [weight / sum(weights) for weight in weights]
    length = sum(share * float(np.linalg.norm(x)) for share, x in zip(shares, flat, strict=True))
    pairs = [(share, x / np.linalg.norm(x)) for share, x in zip(shares, flat, strict=True) if np.linalg.norm(x) > 0]
    if not pairs:
        return np.zeros(tensors[0].shape)
    total = sum(share for share, _ in pairs)
    mean = sum(share / total * unit for share, unit in pairs)
    mean = pairs[0][1] if np.linalg.norm(mean) < tolerance else mean / np.linalg.norm(mean)
    for _ in range(steps):
        step = np.zeros_like(mean)
        for share, unit in pairs:
            angle = math.acos(min(max(float(mean @ unit), -1.0), 1.0))
            if tolerance <= angle <= math.pi - tolerance:
                step += share / total * angle / math.sin(angle) * (unit - (mean @ unit) * mean)
        distance = float(np.linalg.norm(step))
        if distance < tolerance:
            break
        mean = math.cos(distance) * mean + math.sin(distance) * step / distance
        mean /= np.linalg.norm(mean)
    return (length * mean).reshape(tensors[0].shape)


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 5),
    apart=st.sampled_from([1e-3, 0.1, 1.0]),
    size=st.integers(1, 40),
    steps=st.integers(1, 12),
)
@settings(max_examples=80)
def test_karcher_follows_a_walk_on_the_sphere(seed: int, count: int, apart: float, size: int, steps: int) -> None:
    random = np.random.default_rng(seed)
    centre = random.normal(size=(5, 7))
    tensors = [(centre + apart * random.normal(size=centre.shape)).astype(np.float32) for _ in range(count)]
    weights = random.uniform(0.1, 1, count).tolist()
    found = combined("karcher", tensors, weights, size=size, max_iterations=steps)
    assert_near(found, karcher_twin(tensors, weights, steps, 1e-5), tensors)


@given(data=st.data(), count=st.integers(1, 4), negative=st.booleans())
@settings(max_examples=150)
def test_karcher_is_finite_and_as_long_as_the_norms_say_whatever_the_tensors(
    data: st.DataObject, count: int, negative: bool
) -> None:
    tensors = drawn(data, count)
    weights = [1.0, -0.25 if negative else 0.5, 2.0, 0.75][:count]
    found = combined("karcher", tensors, weights)
    norms = [float(np.linalg.norm(tensor.astype(np.float64))) for tensor in tensors]
    length = abs(sum(weight * norm for weight, norm in zip(weights, norms, strict=True)) / sum(weights))
    # Directions that all but cancel out have coefficients of up to 1e5, which leave float32 two digits.
    assert np.linalg.norm(found) == pytest.approx(length, rel=0.05, abs=1e-5 * max(norms) + 1e-37)


def test_a_model_too_small_for_a_direction_counts_for_the_length_alone() -> None:
    x, tiny = np.array([3.0, 0.0]), np.array([0.0, 1e-45])
    np.testing.assert_allclose(combined("karcher", [x, tiny], [1, 1]), [1.5, 0], rtol=1e-6, atol=1e-40)
    wanted = [3 * math.sin(math.pi / 4), 0]
    np.testing.assert_allclose(combined("slerp", [x, tiny], [1, 1]), wanted, rtol=1e-6, atol=1e-40)


def test_karcher_where_directions_cancel_out_or_are_missing() -> None:
    x, y = np.array([3.0, 0.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(combined("karcher", [x, -x], [1, 1]), [3, 0], rtol=1e-6)
    np.testing.assert_allclose(combined("karcher", [0 * x, y], [1, 1]), [0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(combined("karcher", [0 * x, 0 * y], [1, 1]), [0, 0])
    np.testing.assert_allclose(combined("karcher", [x, y], [1, 1]), [math.sqrt(2), math.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(combined("karcher", [x, 2 * x], [1, 1]), [4.5, 0], rtol=1e-6)
    # At the mean of three directions on a circle, the angles to them sum to zero.
    directions = [np.array([math.cos(angle), math.sin(angle)]) for angle in (0.0, 0.3, 1.2)]
    wanted = [math.cos(0.5), math.sin(0.5)]
    np.testing.assert_allclose(combined("karcher", directions, [1, 1, 1]), wanted, rtol=1e-5)


def stock_twin(rows: Sequence[np.ndarray]) -> float:
    """`t` of a few flat vectors."""
    count, cosines = len(rows), []
    for i in range(count):
        for j in range(i + 1, count):
            lengths = float(np.linalg.norm(rows[i])) * float(np.linalg.norm(rows[j]))
            cosines.append(float(rows[i] @ rows[j]) / lengths if lengths else 0.0)
    cosine = sum(cosines) / len(cosines)
    below = 1 + (count - 1) * cosine
    return count * cosine / below if abs(below) > 1e-6 else 0.0


@given(seed=st.integers(0, 10_000), count=st.integers(2, 5), size=st.integers(1, 40), by_row=st.booleans())
@settings(max_examples=80)
def test_model_stock_follows_its_definition(seed: int, count: int, size: int, by_row: bool) -> None:
    random = np.random.default_rng(seed)
    shape = [(5, 7), (6,), (), (2, 3, 4)][seed % 4]
    common = random.normal(size=shape)
    tensors = [(common + random.normal(size=shape)).astype(np.float32) for _ in range(count)]
    weights = random.uniform(0.1, 1, count).tolist()
    found = combined("model_stock", tensors, weights, size=size, filter_wise=by_row)
    flat = [tensor.astype(np.float64).reshape(-1, shape[-1] if by_row and shape else tensor.size) for tensor in tensors]
    ratios = np.array([stock_twin([tensor[row] for tensor in flat]) for row in range(len(flat[0]))])
    mean = sum(weight / sum(weights) * tensor for weight, tensor in zip(weights, flat, strict=True))
    # Where t has a small denominator, float32 models leave few digits of it; ours and the twin see the same float32.
    np.testing.assert_allclose(found, (ratios[:, None] * mean).reshape(shape), rtol=1e-5, atol=1e-5)


def test_model_stock_of_parallel_orthogonal_and_cancelling_vectors() -> None:
    x, y = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    np.testing.assert_allclose(combined("model_stock", [x, 3 * x], [1, 1]), [4, 0], rtol=1e-6)
    np.testing.assert_allclose(combined("model_stock", [x, y], [1, 1]), [0, 0], atol=1e-6)
    np.testing.assert_allclose(combined("model_stock", [x, -x], [1, 1]), [0, 0])
    np.testing.assert_allclose(combined("model_stock", [0 * x, x], [1, 1]), [0, 0])
    ratio = 2 * math.sqrt(0.5) / (1 + math.sqrt(0.5))
    found = combined("model_stock", [x + y, x], [1, 3])
    np.testing.assert_allclose(found, [ratio * 2, ratio * 0.5], rtol=1e-6)


@given(seed=st.integers(0, 1000), size=st.integers(1, 40), row=st.sampled_from([1, 5, 7, 35]))
@settings(max_examples=50)
def test_inner_products_are_those_of_the_rows_in_any_blocks(seed: int, size: int, row: int) -> None:
    random = np.random.default_rng(seed)
    tensors = random.normal(size=(3, 35)).astype(np.float32)
    found = compute_row_grams([in_blocks(tensor, size) for tensor in tensors], info_of((35,)), row=row)
    parts = tensors.astype(np.float64).reshape(3, -1, row)
    np.testing.assert_allclose(found, np.einsum("irc,jrc->rij", parts, parts), rtol=1e-12, atol=1e-14)


def test_inner_products_of_large_and_tiny_numbers_neither_overflow_nor_vanish() -> None:
    for scale in (1e-38, 1e37):
        tensors = [np.full(8, scale, dtype=np.float32), np.arange(8, dtype=np.float32) * np.float32(scale)]
        inner = compute_gram([in_blocks(tensor, 3) for tensor in tensors], info_of((8,)))
        norms, cosines = compute_norms_and_cosines(inner)
        assert norms[0] == pytest.approx(scale * math.sqrt(8), rel=1e-6)
        assert cosines[0, 1] == pytest.approx(28 / math.sqrt(8 * 140), rel=1e-6)


def test_a_tensor_without_elements_has_neutral_facts() -> None:
    empty = [TensorBlocks([], lambda _: torch.empty(0))] * 2
    assert compute_gram(empty, info_of((0, 4))).tolist() == [[0, 0], [0, 0]]
    assert survey_interpolation(empty, info_of((0, 4)), filter_wise=True)[0].tolist() == [0.0]
    assert [tensor.shape for tensor in read_whole_tensors(empty, info_of((0, 4))).tensors] == [(0, 4), (0, 4)]


def test_whole_tensors_come_in_their_shape_and_their_combination_goes_out_in_blocks() -> None:
    tensors = [np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 4), dtype=np.float32)]
    whole = read_whole_tensors([in_blocks(tensor, 5) for tensor in tensors], info_of((3, 4)))
    assert whole.name == "t"
    assert [tensor.tolist() for tensor in whole.tensors] == [tensor.tolist() for tensor in tensors]
    combiner = cut_slices(whole.tensors[0])
    assert combiner([torch.zeros(4)], 5).tolist() == [5, 6, 7, 8]
    combiner([torch.zeros(4)], 5).zero_()
    assert whole.tensors[0].view(-1)[5] == 5


Family = dict[str, Path]


def config_of(family: Family, method: str, weights: dict[str, float], **options: object) -> Config:
    vectors = {name: VectorConfig(model=str(family[name]), weight=weight) for name, weight in weights.items()}
    return Config(
        base=str(family["base"]), vectors=vectors, merge=MergeConfig.model_validate({"method": method, **options})
    )


@pytest.mark.parametrize("names", ["a", "abc"])
def test_slerp_is_between_two_models(names: str, family: Family, tmp_path: Path) -> None:
    with pytest.raises(
        MergeError,
        match=rf"vectors: slerp is between two models, there are {len(names)} \({', '.join(names)}\)\. "
        "Keep two, or use karcher, which takes any number",
    ):
        merge(config_of(family, "slerp", dict.fromkeys(names, 1.0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["slerp", "karcher"])
def test_models_can_be_averaged_on_the_sphere_without_a_base(
    method: str, untied_family: Family, tmp_path: Path
) -> None:
    vectors = {name: {"model": str(untied_family[name]), "weight": 0.5} for name in "ab"}
    config = parse_config({"vectors": vectors, "merge": {"method": method}}, where="t", folder=Path())
    from safetensors.torch import load_file

    found = load_file(merge(config, tmp_path / "out") / "model.safetensors")
    stored = [
        {name: tensor for file in untied_family[key].glob("*.safetensors") for name, tensor in load_file(file).items()}
        for key in "ab"
    ]
    for name, tensor in found.items():
        pair = [tensors[name].numpy() for tensors in stored]
        wanted = slerp_twin(*pair, 0.5) if method == "slerp" else karcher_twin(pair, [1, 1], 10, 1e-5)
        assert_near(tensor.double().numpy(), wanted, pair)


@pytest.mark.parametrize(
    ("method", "weights", "options", "expected"),
    [
        ("slerp", {"a": 1.0, "b": -1.0}, {}, r"slerp divides by the sum of weights, which is 0 \(a 1, b -1\)"),
        ("karcher", {"a": 0.0, "b": 0.0}, {}, r"karcher divides by the sum of weights, which is 0 \(a 0, b 0\)"),
        ("model_stock", {"a": 1.0, "b": -1.0}, {}, r"model_stock divides by the sum of weights, which is 0"),
        ("slerp", {"a": 1.0, "b": 1.0}, {"lambda": 0.5}, r"slerp averages whole models, lambda 0\.5 has nothing"),
        ("karcher", {"a": 1.0}, {"tolerance": 0}, r"merge\.tolerance: Input should be greater than 0, found 0"),
        ("karcher", {"a": 1.0}, {"max_iter": 5}, r"karcher has no option 'max_iter'\. It takes: max_iterations, tol"),
        ("model_stock", {"a": 1.0}, {"density": 0.5}, r"no option 'density'\. It takes: filter_wise"),
    ],
)
def test_what_these_methods_cannot_do_is_refused(
    method: str, weights: dict[str, float], options: dict[str, object], expected: str, family: Family, tmp_path: Path
) -> None:
    with pytest.raises(AftermixError, match=expected):
        merge(config_of(family, method, weights, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_density_of_one_vector_is_of_no_use_to_a_method_without_trimming() -> None:
    vectors = {"a": VectorConfig(model="m", density=0.5)}
    with pytest.raises(AftermixError, match=r"vectors\.a\.density: pcb has no use for it"):
        bind(MergeConfig(method="pcb"), vectors=vectors)
