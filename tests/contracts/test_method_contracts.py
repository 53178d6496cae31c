"""What every row of the method table must do, whatever the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.model import TensorInfo
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import CheckpointError, MergeError
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.merge import Merger
from aftermix.merging.methods import METHODS, bind
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.merging.prepared_gpu import ResidentVectors, move_to_device
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.stream import stream_merged_tensors

Family = Mapping[str, Path]
Copied = Callable[[str], Path]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


STATISTICS: dict[str, Path] = {}
"""By base; for the methods that rank by them."""


@pytest.fixture(autouse=True, scope="module")
def _measured(statistics: dict[str, Path]) -> None:
    STATISTICS.update(statistics)


ON_VECTORS = sorted(name for name, method in METHODS.items() if method.operands == "deltas")
DROPPING = sorted(name for name in METHODS if "density" in bind(MergeConfig(method=name)).options)
# Shares of a tensor, where vectors share it out, sum to at most 1.
HALF = {name: {"density": 0.25 if bind(MergeConfig(method=name)).is_exclusive else 0.5} for name in DROPPING}
KEEP_ALL = {name: {"density": 1.0} for name in DROPPING}
for name in DROPPING:
    KEEP_ALL[name] |= {"epsilon": 0.0} if name.startswith("della") else {}
    KEEP_ALL[name] |= {"gamma": 0.0} if name.startswith("breadcrumbs") else {}
MOVES_ALL = {"wudi": {"others": "mean"}}
"""By itself it leaves what is no linear layer as the base has it."""


def config_of(family: Family, method: str, weights: Mapping[str, float], **options: object) -> Config:
    if method == "slerp":  # it is between two models: a and b, one of which may have weight 0
        weights = {name: weights.get(name, 0.0) for name in weights.keys() | {"a", "b"} if name != "c"}
    vectors = {name: VectorConfig(model=str(family[name]), weight=weight) for name, weight in weights.items()}
    measured = bind(MergeConfig(method=method)).needs_statistics
    given = {"statistics": str(STATISTICS[str(family["base"])])} if measured else {}
    merge = MergeConfig.model_validate({"method": method, **given, **options})
    return Config(base=str(family["base"]), vectors=vectors, merge=merge)


def merger(config: Config) -> Merger:
    return open_merger(config, open_pool(config), MergeRecipe.from_config(config.merge))


def merged(config: Config) -> dict[str, torch.Tensor]:
    weights = {name: vector.weight for name, vector in config.vectors.items()}
    return dict(stream_merged_tensors(merger(config), weights))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same_bits(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert list(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].contiguous().view(torch.uint8).equal(tensor.contiguous().view(torch.uint8)), name


@pytest.mark.parametrize("method", ON_VECTORS)
@pytest.mark.parametrize("kind", ["family", "untied_family"])
def test_weights_of_zero_give_the_base_to_the_bit(method: str, kind: str, request: pytest.FixtureRequest) -> None:
    family = request.getfixturevalue(kind)
    config = config_of(family, method, {"a": 0.0, "b": 0.0}, **HALF.get(method, {}))
    assert_same_bits(merged(config), stored(family["base"]))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("kind", ["family", "untied_family"])
def test_one_vector_at_one_gives_that_expert(method: str, kind: str, request: pytest.FixtureRequest) -> None:
    family = request.getfixturevalue(kind)
    expected = stored(family["a"])
    for name, tensor in merged(config_of(family, method, {"a": 1.0}, **KEEP_ALL.get(method, {}))).items():
        torch.testing.assert_close(tensor, expected[name], rtol=torch.finfo(tensor.dtype).eps, atol=1e-9)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_order_of_vectors_does_not_matter_to_the_bit(method: str, family: Family) -> None:
    weights = {"a": 0.5, "b": -0.3, "c": 0.7}
    options = HALF.get(method, {})
    shuffled = merged(config_of(family, method, {name: weights[name] for name in reversed(weights)}, **options))
    assert_same_bits(shuffled, merged(config_of(family, method, weights, **options)))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_prepared_once_equals_streamed_for_any_weights(method: str, family: Family, tmp_path: Path) -> None:
    config = config_of(family, method, {"a": 1.0, "b": 1.0, "c": 1.0}, exclude=["embed_tokens"], **HALF.get(method, {}))
    merges = merger(config)
    in_memory = prepare_vectors(merges)
    on_disk = prepare_vectors(merges, memory_bytes=0, scratch=tmp_path)
    assert on_disk.scratch is not None
    for weights in ({"a": 0.5, "b": 0.25, "c": 0.125}, {"a": 1.0, "b": -0.5, "c": 0.0}):
        streamed = dict(stream_merged_tensors(merges, weights))
        for prepared in (in_memory, on_disk):
            live = dict(prepared.stream_merged(weights))
            assert set(streamed) == set(live) | prepared.unchanged
            for name, tensor in live.items():
                assert tensor.equal(streamed[name]), name


def resident(prepared: PreparedVectors, device: torch.device) -> ResidentVectors:
    base = {info.name: prepared.merger.pool.read_base_block(info.name, (0, info.elements)) for info in prepared.moved}
    return ResidentVectors(
        prepared,
        device,
        {name: tensor.to(device) for name, tensor in base.items()},
        {name: {v: tensor.to(device) for v, tensor in kept.items()} for name, kept in prepared.kept.items()},
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_combined_on_the_device_of_the_model(
    method: str, family: Family, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aftermix.merging.prepared_gpu.CHUNK_ELEMENTS", 1000)
    config = config_of(family, method, {"a": 1.0, "b": 1.0}, **HALF.get(method, {}))
    prepared = prepare_vectors(merger(config))
    vectors = resident(prepared, device)
    expected = dict(prepared.stream_merged({"a": 0.5, "b": -0.25}))
    for name, tensor in vectors.stream_merged({"a": 0.5, "b": -0.25}):
        assert tensor.device.type == device.type
        if device.type == "cpu":
            assert tensor.equal(expected[name]), name
        else:  # a device may fuse a multiplication and an addition where the CPU rounds between them, and back
            torch.testing.assert_close(tensor.cpu(), expected[name], rtol=2**-7, atol=1e-8)
    assert vectors.unchanged == prepared.unchanged
    assert move_to_device(prepared, torch.device("cpu")) is prepared


def test_prepared_vectors_combine_by_another_recipe(family: Family) -> None:
    weights = {"a": 0.5, "b": -0.25}
    half, whole = (config_of(family, "task_arithmetic", weights, **{"lambda": scale}) for scale in (0.5, 1.0))
    prepared, recipe = prepare_vectors(merger(whole)), merger(half).recipe
    expected = dict(prepare_vectors(merger(half)).stream_merged(weights))
    for vectors in (prepared, resident(prepared, torch.device("cpu"))):
        assert_same_bits(dict(vectors.with_recipe(recipe).stream_merged(weights)), expected)
        assert vectors.with_recipe(recipe).unchanged == prepared.unchanged
    assert prepared.with_recipe(prepared.merger.recipe) is prepared


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fits", [True, False], ids=["resident", "pinned"])
def test_vectors_stay_where_there_is_room(fits: bool, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(family, "task_arithmetic", {"a": 1.0, "b": 1.0})
    prepared = prepare_vectors(merger(config))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 40 if fits else 0, 1 << 40))
    vectors = move_to_device(prepared, torch.device("cuda"))
    assert isinstance(vectors, ResidentVectors)
    tensor = next(iter(next(iter(vectors.kept.values())).values()))
    assert tensor.is_cuda == fits
    assert tensor.is_pinned() != fits
    for name, merged_tensor in vectors.stream_merged({"a": 0.5, "b": 0.25}):
        assert merged_tensor.is_cuda, name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("model", ["base", "a"])
def test_a_faulty_value_is_found_when_vectors_are_prepared(value: float, model: str, copied: Copied) -> None:
    folder = copied(model)
    file = next(file for file in sorted(folder.glob("*.safetensors")) if any("up_proj" in n for n in load_file(file)))
    tensors = load_file(file)
    name = next(name for name in tensors if "up_proj" in name)
    tensors[name].view(-1)[5] = value
    save_file(tensors, file, metadata={"format": "pt"})
    other = copied("a" if model == "base" else "base")
    family = {"base": folder if model == "base" else other, "a": folder if model == "a" else other}
    owner = str(folder) if model == "base" else "vector 'a'"
    with pytest.raises(CheckpointError, match=rf"{name}: {owner}.* holds 1 NaN or Inf values"):
        prepare_vectors(merger(config_of(family, "task_arithmetic", {"a": 1.0})))


def test_a_weight_that_overflows_is_refused_by_the_trial(family: Family) -> None:
    config = config_of(family, "task_arithmetic", {"a": 1.0}, dtype="float16")
    prepared = prepare_vectors(merger(config))
    list(prepared.stream_merged({"a": 1.0}))
    with pytest.raises(
        CheckpointError, match=r"the merge with weights \{'a': 10000000\.0\}, stored as torch.float16, holds"
    ):
        list(prepared.stream_merged({"a": 1e7}))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_threads_and_shards_do_not_change_a_byte(method: str, family: Family, tmp_path: Path) -> None:
    whole = config_of(family, method, {"a": 0.6, "b": 0.4}, **HALF.get(method, {}))
    sharded = config_of(family, method, {"a": 0.6, "b": 0.4}, max_shard_bytes=20_000, **HALF.get(method, {}))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = stored(merge(whole, tmp_path / "whole"))
        torch.set_num_threads(2)
        second = stored(merge(sharded, tmp_path / "sharded"))
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    assert_same_bits(dict(sorted(first.items())), second)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_excluded_tensors_keep_the_bits_of_the_base(method: str, untied_family: Family) -> None:
    options = HALF.get(method, {}) | MOVES_ALL.get(method, {})
    found = merged(
        config_of(untied_family, method, {"a": 0.9, "b": 0.4}, exclude=["embed_tokens", "*.0.mlp.*"], **options)
    )
    base = stored(untied_family["base"])
    kept = {name for name in base if "embed_tokens" in name or "layers.0.mlp" in name}
    assert len(kept) == 4
    for name, tensor in base.items():
        assert found[name].equal(tensor) == (name in kept), name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_scalars_vectors_zeros_and_empty_tensors_work(method: str) -> None:
    recipe = MergeRecipe.from_config(MergeConfig.model_validate({"method": method, **HALF.get(method, {})}))
    from aftermix.merging.rules.intra import TensorKey
    from aftermix.merging.topk.magnitude import TensorBlocks

    for count in (1, 7, 15):
        deltas = [torch.zeros(count), torch.randn(count, generator=torch.Generator().manual_seed(0))]
        kept = [
            recipe.method.bind_intra(str(i))(
                TensorBlocks([(0, count)], lambda bounds, delta=delta: delta[bounds[0] : bounds[1]].clone()),
                TensorKey(0, str(i), "t", count, count),
            )(delta, 0)
            for i, delta in enumerate(deltas)
        ]
        info = TensorInfo("t", (count,), torch.float32, Path())
        facts = recipe.method.survey_tensors(
            [TensorBlocks([(0, count)], lambda _, kept=block: kept.clone()) for block in kept], info
        )
        result = recipe.method.build_combiner(facts, [0.5, 0.5])(kept, 0)
        assert result.shape == (count,)
        assert result.isfinite().all()


def test_a_mean_of_models_needs_a_sum_of_weights(family: Family) -> None:
    with pytest.raises(MergeError, match=r"linear divides by the sum of weights, which is 0 \(a 1, b -1\)"):
        merged(config_of(family, "linear", {"a": 1.0, "b": -1.0}))


def test_linear_needs_no_base(family: Family) -> None:
    config = Config(
        vectors={n: VectorConfig(model=str(family[n]), weight=w) for n, w in {"a": 1.0, "b": 3.0}.items()},
        merge=MergeConfig(method="linear"),
    )
    a, b = stored(family["a"]), stored(family["b"])
    for name, tensor in merged(config).items():
        expected = ((a[name].double() + 3 * b[name].double()) / 4).to(tensor.dtype)
        torch.testing.assert_close(tensor, expected, rtol=2**-8, atol=0)
