"""LoRA adapters as vectors: the same numbers as PEFT's own folding and as a float64 twin, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.formats.lora.adapter import LoraAdapter
from aftermix.checkpoints.formats.lora.names import PrefixSwap
from aftermix.checkpoints.model import StoredDifference, describe_storage, read_tensor
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, CheckpointError, ManyProblemsError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge
from aftermix.merging.methods import METHODS, bind

Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]
Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"
EMBEDDING = "model.embed_tokens"
ROOT = "base_model.model."


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.3


def factors(module: str, inputs: int, outputs: int, rank: int = 4) -> Tensors:
    return {
        f"{ROOT}{module}.lora_A.weight": random(rank, inputs),
        f"{ROOT}{module}.lora_B.weight": random(outputs, rank),
    }


def write_adapter(folder: Path, tensors: Tensors, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "someone/base"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def opened(base: Path, adapter: Path) -> LoraAdapter:
    model = open_model(str(adapter), base=open_model(str(base)))
    assert isinstance(model, LoraAdapter)
    return model


def difference(adapter: LoraAdapter, name: str) -> np.ndarray:
    """In several runs that do not end at rows, put together."""
    elements = adapter.info(name).elements
    ends = [0, elements // 3 + 1, elements // 2 + 3, elements]
    parts = [adapter.difference(name, run) for run in itertools.pairwise(ends)]
    return torch.cat([part for part in parts if part is not None]).view(adapter.info(name).shape).double().numpy()


def doubles(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def config_of(family: Family, adapter: Path, *, weight: float = 1.0, **settings: Any) -> Config:
    vectors = {"lora": VectorConfig(model=str(adapter), weight=weight)}
    return Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"q_proj": 2}}, 0.5),
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 4}, "r": 16}, 2.0),
        ({"rank_pattern": {r".*\.layers\.\d.*q_proj": 4, "q_proj": 5}, "r": 16, "use_rslora": True}, 4.0),
        ({"rank_pattern": None, "alpha_pattern": None, "init_lora_weights": "gaussian"}, 2.0),
    ],
)
def test_the_difference_is_the_scaled_product(
    settings: dict[str, Any], scale: float, family: Family, tmp_path: Path
) -> None:
    tensors = factors(Q, 32, 32)
    adapter = opened(family["base"], write_adapter(tmp_path / "lora", tensors, **settings))
    a, b = (doubles(tensor) for tensor in tensors.values())
    np.testing.assert_allclose(difference(adapter, f"{Q}.weight"), scale * b @ a, atol=1e-6)
    assert adapter.difference("model.norm.weight", (0, 32)) is None
    assert adapter.read_block("model.norm.weight", (0, 32)).equal(adapter.base.read_block("model.norm.weight", (0, 32)))
    base = read_tensor(adapter.base, f"{Q}.weight")
    np.testing.assert_allclose(doubles(read_tensor(adapter, f"{Q}.weight")), doubles(base) + scale * b @ a, atol=1e-6)
    assert isinstance(adapter, StoredDifference)


def test_embeddings_and_dora_as_their_formulas(untied_family: Family, tmp_path: Path) -> None:
    tensors = factors(UP, 32, 48) | {f"{ROOT}{UP}.lora_magnitude_vector": random(48).abs()}
    tensors |= {
        f"{ROOT}{EMBEDDING}.lora_embedding_A": random(4, 320),
        f"{ROOT}{EMBEDDING}.lora_embedding_B": random(32, 4),
        f"{ROOT}{EMBEDDING}.lora_magnitude_vector": random(32).abs(),
    }
    adapter = opened(untied_family["base"], write_adapter(tmp_path / "dora", tensors, use_dora=True))
    values = {name.rpartition(".lora_")[2]: doubles(t) for name, t in tensors.items() if UP in name}
    base = doubles(read_tensor(adapter.base, f"{UP}.weight"))
    moved = base + 2 * values["B.weight"] @ values["A.weight"]
    expected = values["magnitude_vector"][:, None] * moved / np.linalg.norm(moved, axis=1, keepdims=True) - base
    np.testing.assert_allclose(difference(adapter, f"{UP}.weight"), expected, atol=1e-6)
    values = {name.rpartition(".lora_")[2]: doubles(t) for name, t in tensors.items() if EMBEDDING in name}
    base = doubles(read_tensor(adapter.base, f"{EMBEDDING}.weight"))
    moved = base + 2 * (values["embedding_B"] @ values["embedding_A"]).T
    expected = values["magnitude_vector"] * moved / np.linalg.norm(moved, axis=0) - base
    np.testing.assert_allclose(difference(adapter, f"{EMBEDDING}.weight"), expected, atol=1e-6)


def test_saved_tensors_and_single_rows_take_the_place_of_the_base(untied_family: Family, tmp_path: Path) -> None:
    head, rows = random(320, 32), random(2, 32)
    saved = {
        f"{ROOT}lm_head.weight": head,
        f"{ROOT}{EMBEDDING}.token_adapter.trainable_tokens_delta": rows,
        f"{ROOT}model.norm.base_layer.weight": random(32),
    }
    folder = write_adapter(tmp_path / "saved", saved, trainable_token_indices={"embed_tokens": [7, 300]})
    adapter = opened(untied_family["base"], folder)
    base = {name: doubles(read_tensor(adapter.base, name)) for name in adapter.tensors}
    np.testing.assert_allclose(difference(adapter, "lm_head.weight"), doubles(head) - base["lm_head.weight"], atol=1e-6)
    expected = np.zeros((320, 32))
    expected[[7, 300]] = doubles(rows) - base[f"{EMBEDDING}.weight"][[7, 300]]
    np.testing.assert_allclose(difference(adapter, f"{EMBEDDING}.weight"), expected, atol=1e-6)
    norm = doubles(random(32)) - base["model.norm.weight"]
    np.testing.assert_allclose(difference(adapter, "model.norm.weight"), norm, atol=1e-6)


def test_facts_tell_what_the_adapter_is(family: Family, tmp_path: Path) -> None:
    tensors = factors(Q, 32, 32) | factors(UP, 32, 48)
    folder = write_adapter(tmp_path / "lora", tensors, use_rslora=True)
    facts = describe_storage(opened(family["base"], folder))
    assert facts[0] == "is a LoRA adapter, rank-stabilised: rank 4, 2 tensors moved"
    assert facts[1] == f"names 'someone/base' as its base; here it moves '{family['base']}'"
    found = doctor(config_of(family, folder))
    assert not found.problems
    assert "vector 'lora' is a LoRA adapter, rank-stabilised: rank 4, 2 tensors moved" in found.facts


def with_prefix(base: Path, folder: Path, rename: Callable[[str], str]) -> Path:
    """The base under other names, as another tool or wrapper would have saved it."""
    folder.mkdir()
    (folder / "config.json").write_text((base / "config.json").read_text())
    tensors = {rename(name): tensor for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("rename", "swap"),
    [
        (lambda name: name.removeprefix("model."), PrefixSwap("model.", "")),
        (lambda name: f"language_model.{name}", PrefixSwap("", "language_model.")),
        (
            lambda name: name.replace("model.", "model.language_model.", 1),
            PrefixSwap("model.", "model.language_model."),
        ),
    ],
)
def test_another_prefix_is_exchanged_and_told(
    rename: Callable[[str], str], swap: PrefixSwap, family: Family, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q, 32, 32) | factors(UP, 32, 48))
    plain = opened(family["base"], folder)
    other = opened(with_prefix(family["base"], tmp_path / "renamed", rename), folder)
    assert other.swap == swap
    assert sorted(other.changes) == sorted(rename(name) for name in plain.changes)
    name = f"{UP}.weight"
    np.testing.assert_array_equal(difference(other, rename(name)), difference(plain, name))
    assert any(str(swap) in fact for fact in describe_storage(other))


def test_two_places_that_fit_equally_are_refused(family: Family, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q, 32, 32))
    base = with_prefix(family["base"], tmp_path / "twice", lambda name: f"one.{name}")
    tensors = load_file(base / "model.safetensors")
    copies = {name.replace("one.", "two.", 1): tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors | copies, base / "model.safetensors")
    with pytest.raises(AftermixError, match=r"fit the base in 2 ways: '' -> 'one\.', '' -> 'two\.'"):
        opened(base, folder)


def test_sizes_tell_the_text_model_from_the_vision_tower(family: Family, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q, 32, 32))
    base = with_prefix(family["base"], tmp_path / "both", lambda name: name.replace("model.", "model.text.", 1))
    tensors = load_file(base / "model.safetensors")
    vision = {f"model.vision.layers.{layer}.self_attn.q_proj.weight": torch.zeros(24, 24) for layer in range(9)}
    save_file(tensors | vision, base / "model.safetensors")
    assert opened(base, folder).swap == PrefixSwap("model.", "model.text.")


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        ({}, {"peft_type": "IA3"}, r"is an adapter of type 'IA3', only LORA is read\. Fold it into its base with PEFT"),
        ({}, {"r": 0}, r"adapter_config\.json: r: Input should be greater than 0, found '0'"),
        ({}, {"lora_alpha": float("nan")}, r"lora_alpha: Input should be a finite number"),
        ({}, {"layer_replication": [[0, 2]]}, r"uses PEFT's `layer_replication`, which is not a plain difference"),
        ({}, {"target_parameters": ["experts.up"]}, r"uses PEFT's `target_parameters`"),
        ({}, {"init_lora_weights": "pissa"}, r"began by `init_lora_weights: pissa`, which also changes the base"),
        ({}, {"rank_pattern": {"(a+)+": 4}}, r"'\(a\+\)\+' repeats more than 2 times, or repeats a group\. Write"),
        ({}, {"alpha_pattern": {"(": 4}}, r"alpha_pattern: '\(' is no regular expression"),
        ({}, {}, r"adapter_model\.safetensors: holds no tensors"),
        (
            factors("model.layers.9.self_attn.q_proj", 32, 32),
            {},
            r"layers\.9\..*: the adapter changes this tensor",
        ),
        (
            factors(Q, 32, 40),
            {},
            r"A \(4, 32\) and B \(32, 4\) for its \(32, 32\) at rank 4, .* B \(40, 4\)",
        ),
        (factors(Q, 32, 32), {"r": 8}, r"at rank 8, the adapter has A \(4, 32\) and B \(32, 4\)"),
        ({f"{ROOT}{Q}.lora_A.weight": random(4, 32)}, {}, r"q_proj: the adapter has lora_A without lora_B"),
        ({f"{ROOT}{Q}.lora_B.weight": random(32, 4)}, {}, r"q_proj: the adapter has lora_B without lora_A"),
        (factors(Q, 32, 32), {"use_dora": True}, r"`use_dora` is True, the adapter has no lora_magnitude_vector"),
        (
            factors(Q, 32, 32) | {f"{ROOT}{Q}.lora_magnitude_vector": random(31)},
            {"use_dora": True},
            r"expected a magnitude of 32 outputs, the adapter has \(31,\)",
        ),
        (
            factors(Q, 32, 32) | {f"{ROOT}{Q}.lora_B.bias": random(32)},
            {"lora_bias": True},
            r"q_proj\.bias: the adapter changes this tensor, the base lacks it",
        ),
        ({f"{ROOT}{Q}.lora_E": random(4, 4)}, {}, r"q_proj\.lora_E: is no tensor that PEFT writes"),
        (
            {f"{Q}.lora_A.weight": random(4, 32)},
            {},
            r"lora_A\.weight: is no tensor that PEFT writes for",
        ),
        ({f"{ROOT}model.norm.weight": random(31)}, {}, r"expected real numbers of shape \(32,\) for it, .* \(31,\)"),
        ({f"{ROOT}model.norm.weight": torch.zeros(32).int()}, {}, r"the adapter has \(32,\) of torch\.int32"),
        (
            {f"{ROOT}{EMBEDDING}.token_adapter.trainable_tokens_delta": random(1, 32)},
            {"trainable_token_indices": [320]},
            r"`trainable_token_indices` are not different rows of its \(320, 32\)",
        ),
    ],
)
def test_what_is_refused(
    tensors: Tensors, settings: dict[str, Any], message: str, family: Family, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "bad", tensors, **settings)
    with pytest.raises(AftermixError, match=message):
        opened(family["base"], folder)


def test_every_missing_target_is_told_at_once(family: Family, tmp_path: Path) -> None:
    missing = [f"model.layers.{layer}.self_attn.{kind}_proj" for layer in (7, 8, 9, 10) for kind in "qo"]
    tensors = factors(Q, 32, 32) | {k: v for module in missing for k, v in factors(module, 32, 32).items()}
    with pytest.raises(ManyProblemsError) as raised:
        opened(family["base"], write_adapter(tmp_path / "deep", tensors))
    assert str(raised.value).startswith("6 problems:")
    assert "the adapter changes 9 tensors, the base lacks 8 of them" in str(raised.value)


def test_a_pickled_adapter_and_one_without_weights_are_refused(family: Family, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q, 32, 32))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"found adapter_model\.bin, which can run code when it is opened\. Save"):
        opened(family["base"], folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"expected adapter_model\.safetensors, found none"):
        opened(family["base"], folder)


def test_an_adapter_needs_a_base(family: Family, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q, 32, 32))
    with pytest.raises(AftermixError, match=r"is a LoRA adapter, which is nothing without its base\. Name its base as"):
        open_pool(Config(base=str(folder), vectors={"b": VectorConfig(model=str(family["b"]))}))
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is an adapter, not a full model\. Name it under `vectors:`"):
        open_checkpoint(folder)


def test_nan_in_a_factor_stops_a_merge_and_is_found_by_doctor(family: Family, tmp_path: Path) -> None:
    tensors = factors(Q, 32, 32)
    tensors[f"{ROOT}{Q}.lora_B.weight"][3, 0] = float("nan")
    config = config_of(family, write_adapter(tmp_path / "lora", tensors))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight: vector 'lora' .* holds 32 NaN or Inf values"):
        merge(config, tmp_path / "out")
    assert [problem.where for problem in doctor(config).problems] == [f"{Q}.weight"]


def embedding_factors(*, head: bool) -> Tensors:
    a, b = random(4, 320), random(32, 4)
    tensors = {f"{ROOT}{EMBEDDING}.lora_embedding_A": a, f"{ROOT}{EMBEDDING}.lora_embedding_B": b}
    of_head = {f"{ROOT}lm_head.lora_A.weight": b.T, f"{ROOT}lm_head.lora_B.weight": a.T}
    return tensors | (of_head if head else {})


def test_a_tied_embedding_moves_only_with_its_head(family: Family, tmp_path: Path) -> None:
    alone = write_adapter(tmp_path / "alone", embedding_factors(head=False))
    with pytest.raises(AftermixError, match=r"apart from 'lm_head\.weight', to which the base ties it\. Untie"):
        opened(family["base"], alone)
    both = opened(family["base"], write_adapter(tmp_path / "both", embedding_factors(head=True)))
    tied = write_adapter(tmp_path / "tied", embedding_factors(head=False), ensure_weight_tying=True)
    assert list(both.changes) == [f"{EMBEDDING}.weight"]
    expected = difference(opened(family["base"], tied), f"{EMBEDDING}.weight")
    np.testing.assert_array_equal(difference(both, "lm_head.weight"), expected)
    copy = read_tensor(both.base, f"{EMBEDDING}.weight").clone()
    unmoved = write_adapter(tmp_path / "copy", factors(Q, 32, 32) | {f"{ROOT}{EMBEDDING}.weight": copy})
    assert list(opened(family["base"], unmoved).changes) == [f"{Q}.weight"]


@pytest.mark.parametrize("method", [m for m in METHODS if not bind(MergeConfig(method=m)).needs_statistics])
def test_weight_0_gives_the_base_to_the_bit_and_weight_1_the_folded_expert(
    method: str, untied_family: Family, tmp_path: Path
) -> None:
    base = untied_family["base"]
    folder = write_adapter(tmp_path / "lora", factors(Q, 32, 32) | factors(UP, 32, 48))
    config = Config(
        base=str(base),
        vectors={
            "lora": VectorConfig(model=str(folder), weight=0.0),
            "same": VectorConfig(model=str(base), weight=1.0),
        },
        merge=MergeConfig(method=method),
    )
    tensors = load_file(merge(config, tmp_path / "zero") / "model.safetensors")
    stored = load_file(base / "model.safetensors")
    assert all(tensor.equal(stored[name]) for name, tensor in tensors.items())

    adapter = opened(base, folder)
    folded = tmp_path / "folded"
    folded.mkdir()
    (folded / "config.json").write_text((base / "config.json").read_text())
    save_file({name: read_tensor(adapter, name).clone() for name in stored}, folded / "model.safetensors")
    results = []
    for model in (folder, folded):
        one = {"v": VectorConfig(model=str(model), weight=1.0)}
        if method == "slerp":  # it is between two models
            one["w"] = VectorConfig(model=str(base), weight=0.0)
        path = merge(
            Config(base=str(base), vectors=one, merge=MergeConfig(method=method)), tmp_path / f"one-{model.name}"
        )
        results.append(load_file(path / "model.safetensors"))
    assert not results[0][f"{Q}.weight"].equal(stored[f"{Q}.weight"])
    for name in stored:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-5, atol=1e-6)


def test_the_lock_names_the_adapters_files_and_the_result_serves(family: Family, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q, 32, 32))
    out = merge(config_of(family, folder), tmp_path / "out")
    inputs = json.loads((out / "lock.json").read_text())["inputs"]
    assert sorted(inputs["vectors.lora"]["files"]) == ["adapter_config.json", "adapter_model.safetensors"]
    assert "config" in inputs["base"]
    assert (out / "config.json").read_bytes() == (family["base"] / "config.json").read_bytes()
    assert (out / "tokenizer.json").is_file()


@settings(max_examples=30)
@given(
    sides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    rank=st.integers(1, 3),
    transposed=st.booleans(),
    dora=st.booleans(),
    cut=st.floats(0, 1),
)
def test_any_run_of_any_matrix_is_its_float64_twin(
    sides: tuple[int, int],
    rank: int,
    transposed: bool,
    dora: bool,
    cut: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    outputs, inputs = sides
    folder = tmp_path_factory.mktemp("twin")
    weight = random(outputs, inputs)
    (folder / "config.json").write_text("{}")
    save_file({"m.weight": (weight.T if transposed else weight).contiguous()}, folder / "model.safetensors")
    tensors = factors("m", inputs, outputs, rank)
    tensors |= {f"{ROOT}m.lora_magnitude_vector": random(outputs).abs()} if dora else {}
    lora = write_adapter(folder / "lora", tensors, r=rank, fan_in_fan_out=transposed, use_dora=dora)
    adapter = opened(folder, lora)
    a, b = (doubles(tensor) for tensor in list(tensors.values())[:2])
    moved = doubles(weight) + 8 / rank * b @ a
    if dora:
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        moved = doubles(tensors[f"{ROOT}m.lora_magnitude_vector"])[:, None] * moved / norms
    expected = (moved - doubles(weight)).T if transposed else moved - doubles(weight)
    middle = int(cut * weight.numel())
    parts = [adapter.difference("m.weight", run) for run in ((0, middle), (middle, weight.numel()))]
    found = torch.cat([part for part in parts if part is not None])
    np.testing.assert_allclose(doubles(found), expected.reshape(-1), rtol=1e-4, atol=1e-5)
