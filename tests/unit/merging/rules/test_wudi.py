"""WUDI merging against its loss, followed by torch's Adam with gradients that torch derives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, MergeError
from aftermix.jobs.merge.command import merge
from aftermix.merging.methods import bind
from aftermix.merging.rules import wudi as module
from aftermix.merging.rules.surveys import WholeTensors
from aftermix.merging.rules.wudi import is_linear, merge_layer, wudi

WEIGHTS = {"b": 1.0, "c": 0.5}


def loss_of(merged: torch.Tensor, vectors: list[torch.Tensor]) -> torch.Tensor:
    terms = [((merged - vector) @ vector.T).square().sum() / vector.square().sum() for vector in vectors]
    return torch.stack(terms).sum()


def reference(deltas: list[torch.Tensor], weights: list[float], *, steps: int, learning_rate: float) -> torch.Tensor:
    """The definition, in the deltas' own type."""
    vectors = [weight * delta for delta, weight in zip(deltas, weights, strict=True)]
    vectors = [vector for vector in vectors if vector.norm() > 0]
    merged = torch.nn.Parameter(torch.stack(vectors).sum(0))
    optimizer = torch.optim.Adam([merged], lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(merged, vectors).backward()
        optimizer.step()
    return merged.detach()


def deltas_of(count: int, rows: int, columns: int, *, scale: float = 0.01, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, columns, generator=generator) * scale for _ in range(count)]


@given(
    count=st.integers(2, 4),
    rows=st.integers(1, 7),
    columns=st.one_of(st.integers(1, 7), st.integers(20, 40)),  # both orders of the products
    scale=st.sampled_from([1.0, 0.02, 1e-3]),
    weights=st.lists(st.sampled_from([1.0, 0.5, -0.75, 2.0]), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_it_follows_its_definition(
    count: int, rows: int, columns: int, scale: float, weights: list[float], seed: int
) -> None:
    deltas = deltas_of(count, rows, columns, scale=scale, seed=seed)
    steps, learning_rate = 40, 1e-4
    exact = [delta.double() for delta in deltas]
    wanted = reference(exact, weights[:count], steps=steps, learning_rate=learning_rate)
    found = merge_layer(exact, weights[:count], steps=steps, learning_rate=learning_rate)
    # Where a gradient vanishes, its rounding errors in float64 against Adam's epsilon.
    assert torch.allclose(found, wanted, rtol=0, atol=1e-7 * learning_rate * steps + 1e-12 * scale)
    single = merge_layer(deltas, weights[:count], steps=steps, learning_rate=learning_rate)
    assert torch.allclose(single.double(), wanted, rtol=1e-6, atol=0.05 * learning_rate * steps)


def test_the_defaults_are_those_of_the_paper_and_lower_the_loss() -> None:
    deltas = deltas_of(3, 12, 16)
    found = merge_layer(deltas, [1.0, 1.0, 1.0])
    wanted = reference([delta.double() for delta in deltas], [1.0] * 3, steps=300, learning_rate=1e-5)
    assert torch.allclose(found.double(), wanted, rtol=1e-6, atol=1e-7)
    assert loss_of(found, deltas) < 0.9 * loss_of(torch.stack(deltas).sum(0), deltas)


def test_the_optimum_of_vectors_that_do_not_meet_is_their_sum() -> None:
    deltas = [torch.zeros(3, 8), torch.zeros(3, 8)]
    deltas[0][:, :4], deltas[1][:, 4:] = deltas_of(2, 3, 4)
    assert merge_layer(deltas, [1.0, 0.5], learning_rate=0.1).equal(deltas[0] + 0.5 * deltas[1])


def test_a_vector_alone_is_itself_whatever_stands_beside_it() -> None:
    delta = deltas_of(1, 4, 5)[0]
    nothing = torch.zeros(4, 5)
    assert merge_layer([delta], [1.0]).equal(delta)
    assert merge_layer([nothing, delta], [1.0, 1.0]).equal(delta)
    assert merge_layer([delta, deltas_of(1, 4, 5, seed=1)[0]], [0.5, 0.0]).equal(0.5 * delta)
    assert merge_layer([nothing, nothing], [1.0, 1.0]).equal(nothing)
    assert merge_layer([delta, delta], [1.0, 2.0], steps=0).equal(3 * delta)


def test_equal_vectors_become_one_of_them() -> None:
    delta = torch.tensor([[0.002, 0.0], [0.0, -0.001]])
    found = merge_layer([delta, delta], [1.0, 1.0], steps=2000)
    assert torch.allclose(found, delta, atol=2e-5)  # the sum is twice as far


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (3, 300)])
def test_rows_are_optimised_by_themselves_in_chunks_of_any_size(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = deltas_of(3, *shape)
    whole = merge_layer(deltas, [1.0, 0.5, -0.5])
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 4 * shape[1] if shape[0] > 3 else 1)
    assert torch.allclose(merge_layer(deltas, [1.0, 0.5, -0.5]), whole, rtol=1e-6, atol=1e-8)


def test_threads_do_not_change_a_bit() -> None:
    deltas, threads = deltas_of(3, 160, 90), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(merge_layer(deltas, [1.0, 1.0, 1.0], steps=20))
    finally:
        torch.set_num_threads(threads)
    assert found[0].equal(found[1])


def test_a_weight_stored_by_inputs_is_the_same_layer() -> None:
    deltas = deltas_of(2, 5, 8)
    turned = merge_layer([delta.t().contiguous() for delta in deltas], [1.0, 0.7], input_axis="first")
    assert torch.allclose(turned.t(), merge_layer(deltas, [1.0, 0.7]), rtol=0, atol=1e-9)


def test_experts_of_a_fused_tensor_are_layers_of_their_own() -> None:
    fused = [torch.stack(deltas_of(2, 4, 6, seed=seed)) for seed in (0, 1)]
    found = merge_layer(fused, [1.0, 1.0])
    for expert in range(2):
        assert found[expert].equal(merge_layer([delta[expert] for delta in fused], [1.0, 1.0]))


def test_operands_are_left_alone_and_faults_are_passed_on() -> None:
    deltas = deltas_of(2, 3, 4)
    before = [delta.clone() for delta in deltas]
    merge_layer(deltas, [1.0, 1.0], steps=3)
    assert all(delta.equal(copy) for delta, copy in zip(deltas, before, strict=True))
    for fault in (float("nan"), float("inf")):
        deltas[0][1, 2] = fault
        assert not merge_layer(deltas, [1.0, 1.0], steps=3).isfinite().all()


def test_sizes_at_the_ends_of_float32_stay_finite() -> None:
    for scale in (1e-42, 1e-30, 1e15):
        assert merge_layer(deltas_of(3, 4, 5, scale=scale), [1.0, 1.0, 1.0], steps=5).isfinite().all()


def test_names_and_shapes_tell_linear_layers() -> None:
    linear = [
        ("model.layers.0.self_attn.q_proj.weight", (8, 8)),
        ("lm_head.weight", (50, 8)),
        ("transformer.h.0.attn.c_attn.weight", (8, 24)),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", (24, 8)),
        ("model.layers.0.mlp.experts.gate_up_proj", (2, 8, 4)),
        ("model.layers.0.mlp.gate.weight", (2, 8)),
    ]
    other = [
        ("model.embed_tokens.weight", (50, 8)),
        ("transformer.wpe.weight", (16, 8)),
        ("model.norm.weight", (8,)),
        ("model.layers.0.self_attn.q_proj.bias", (8,)),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (2, 8)),
        ("model.layers.0.mlp.experts.projections_bias", (2, 8, 4)),
        ("model.layers.0.mixer.A_log", (8, 4)),
        ("model.layers.0.mixer.conv1d.weight", (8, 1, 4)),
        ("scale", ()),
    ]
    assert [name for name, shape in linear + other if is_linear(name, shape)] == [name for name, _ in linear]


def test_what_is_no_linear_layer_is_not_optimised() -> None:
    deltas = deltas_of(2, 3, 4)
    weights = [1.0, -0.5]

    def found(name: str, **options: Any) -> torch.Tensor:
        return wudi(WholeTensors(name, deltas), weights, **options)

    total = deltas[0] - 0.5 * deltas[1]
    assert found("mlp.up_proj.weight").equal(merge_layer(deltas, weights))
    assert not found("mlp.up_proj.weight").equal(total)
    assert found("embed_tokens.weight").count_nonzero() == 0
    assert found("embed_tokens.weight", others="sum").equal(total)
    assert found("embed_tokens.weight", others="mean").equal(total / 2)
    # A vector of weight 0 takes no part, and one alone is its expert in every tensor.
    beside_nothing = wudi(WholeTensors("embed_tokens.weight", deltas), [0.0, 1.0])
    assert beside_nothing.equal(deltas[1])


def test_a_fault_in_a_tensor_that_keeps_the_base_is_not_hidden() -> None:
    deltas = [torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0])]
    assert wudi(WholeTensors("norm.weight", deltas), [1.0, 1.0]).isnan().tolist() == [False, True]


def merged_by_job(members: Mapping[str, Path], out: Path, **options: object) -> dict[str, torch.Tensor]:
    vectors = {name: VectorConfig(model=str(members[name]), weight=weight) for name, weight in WEIGHTS.items()}
    config = Config(
        base=str(members["base"]), vectors=vectors, merge=MergeConfig.model_validate({"method": "wudi", **options})
    )
    return load_file(merge(config, out) / "model.safetensors")


def test_a_whole_merge_optimises_its_linear_layers(untied_family: Mapping[str, Path], tmp_path: Path) -> None:
    found = merged_by_job(untied_family, tmp_path / "out", steps=50, learning_rate=1e-4)
    base = load_file(untied_family["base"] / "model.safetensors")
    experts = {
        name: {k: t for file in untied_family[name].glob("*.safetensors") for k, t in load_file(file).items()}
        for name in WEIGHTS
    }
    for name, start in base.items():
        if not is_linear(name, start.shape):
            assert found[name].equal(start), name
            continue
        deltas = [(experts[vector][name] - start).double() for vector in WEIGHTS]
        wanted = start.double() + reference(deltas, list(WEIGHTS.values()), steps=50, learning_rate=1e-4)
        assert torch.allclose(found[name].double(), wanted, rtol=1e-6, atol=1e-5), name
    assert sum(is_linear(name, tensor.shape) for name, tensor in base.items()) == 15


def test_a_tied_head_goes_by_its_embedding(copied: Callable[[str], Path], tmp_path: Path) -> None:
    members = {name: copied(name) for name in ("base", "b", "c")}
    weights = members["base"] / "model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, weights)
    for others in ("base", "mean"):
        found = merged_by_job(members, tmp_path / others, steps=2, others=others)
        assert found["lm_head.weight"].equal(found["model.embed_tokens.weight"])
        assert found["lm_head.weight"].equal(tensors["model.embed_tokens.weight"]) == (others == "base")


def test_layers_are_optimised_where_the_user_says() -> None:
    layer, weights = WholeTensors("mlp.up_proj.weight", deltas_of(2, 6, 9)), [1.0, 0.5]
    here = wudi(layer, weights)
    there = wudi(layer, weights, device="auto")
    assert there.device.type == "cpu"
    assert torch.allclose(there, here, rtol=0, atol=0 if not torch.cuda.is_available() else 1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused_before_work_begins() -> None:
    with pytest.raises(MergeError, match=r"^merge.device: 'cuda' cannot be used .*Use `auto` or `cpu`\.$"):
        bind(MergeConfig.model_validate({"method": "wudi", "device": "cuda"}))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": -1}, "merge.steps: Input should be greater than or equal to 0, found -1. It is an option of wudi."),
        ({"learning_rate": 0}, "merge.learning_rate: Input should be greater than 0, found 0. It is an option of wudi"),
        ({"density": 0.5}, "merge.density: wudi has no option 'density'. It takes: steps, learning_rate, input_axis"),
    ],
)
def test_options_are_refused_before_work_begins(option: dict[str, Any], message: str) -> None:
    with pytest.raises(AftermixError) as caught:
        bind(MergeConfig.model_validate({"method": "wudi", **option}))
    assert message in str(caught.value)
