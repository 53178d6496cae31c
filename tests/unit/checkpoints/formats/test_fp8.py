"""FP8 checkpoints as vectors and as bases: every layout of scales against a float64 twin, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.formats.fp8 import DequantisedModel
from aftermix.checkpoints.model import describe_storage, read_tensor
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, EvaluateConfig, ItemsConfig, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, EvaluationError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.evaluate.command import evaluate
from aftermix.jobs.merge.command import merge

Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]
DEEPSEEK = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
COUNTS = ItemsConfig(search=20, select=10)
MOVED = "model.layers.1.mlp.up_proj.weight"


def write(folder: Path, tensors: Tensors, quantisation: dict[str, Any] | None, **values: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "torch_dtype": "bfloat16"} | values
    config |= {"quantization_config": quantisation} if quantisation else {}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def opened(folder: Path) -> DequantisedModel:
    model = open_model(str(folder))
    assert isinstance(model, DequantisedModel)
    return model


def fp8(*shape: int, seed: int = 0, kind: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 8).to(kind)


def scales(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.5


def slow_twin(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, int]) -> np.ndarray:
    """Element by element: the block that a row and a column of a matrix lie in."""
    values = weight.double().numpy()
    flat = scale.double().numpy().reshape(*weight.shape[:-2], -(-weight.shape[-2] // block[0]), -1)
    result = np.empty_like(values)
    for index in np.ndindex(values.shape):
        *stacked, row, column = index
        result[index] = values[index] * flat[(*stacked, row // block[0], column // block[1])]
    return result


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    cut=st.floats(0, 1),
)
def test_any_block_of_any_stack_is_its_slow_twin(
    shape: tuple[int, int, int], block: tuple[int, int], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    experts, rows, columns = shape
    scale = scales(experts, -(-rows // block[0]), -(-columns // block[1]))
    weight = fp8(*shape)
    tensors = {"experts.up_proj": weight, "experts.up_proj_scale_inv": scale}
    folder = tmp_path_factory.mktemp("stack") / "m"
    model = opened(write(folder, tensors, DEEPSEEK | {"weight_block_size": list(block)}))
    middle = int(cut * weight.numel())
    parts = [model.read_block("experts.up_proj", run) for run in ((0, middle), (middle, weight.numel()))]
    expected = slow_twin(weight, scale, block)
    np.testing.assert_allclose(torch.cat(parts).view(shape).double().numpy(), expected, rtol=1e-6)


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
}


def groups(**weights: Any) -> dict[str, Any]:
    of_weights = {"num_bits": 8, "type": "float"} | weights
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": of_weights}}}


@pytest.mark.parametrize(
    ("name", "shape", "block", "quantisation", "told"),
    [
        (
            "weight_scale_inv",
            (3, 2),
            (128, 128),
            DEEPSEEK | {"weight_block_size": [128, 128]},
            "128 x 128 block scales",
        ),
        ("weight_scale_inv", (3, 2), (128, 128), {"quant_method": "fp8"}, "128 x 128 block scales"),
        ("weight_scale_inv", (), (300, 130), {"quant_method": "fp8", "weight_block_size": None}, "one scale a tensor"),
        ("weight_scale", (1,), (300, 130), groups(strategy="tensor"), "one scale a tensor"),
        ("weight_scale", (300, 1), (1, 130), groups(strategy="channel"), "one scale a row"),
        ("weight_scale", (300,), (1, 130), {"quant_method": "fbgemm_fp8"}, "one scale a row"),
        ("weight_scale", (10, 3), (32, 50), groups(strategy="block", block_structure=[32, 50]), "32 x 50 block scales"),
        ("weight_scale", (300, 13), (1, 10), groups(strategy="group", group_size=10), "1 x 10 block scales"),
        ("weight_scale", (), (300, 130), {"quant_method": "modelopt", "quant_algo": "FP8"}, "one scale a tensor"),
    ],
)
def test_every_layout_of_scales(
    name: str, shape: tuple[int, ...], block: tuple[int, int], quantisation: dict[str, Any], told: str, tmp_path: Path
) -> None:
    weight, scale = fp8(300, 130), scales(*shape).to(torch.bfloat16)
    tensors = {"x.weight": weight, f"x.{name}": scale, "x.input_scale": scales(1), "norm.weight": scales(7)}
    model = opened(write(tmp_path / "m", tensors, quantisation))
    assert sorted(model.tensors) == ["norm.weight", "x.weight"]
    assert model.info("x.weight").dtype == torch.bfloat16
    assert model.info("norm.weight").dtype == torch.float32
    expected = slow_twin(weight, scale, block)
    np.testing.assert_allclose(read_tensor(model, "x.weight").double().numpy(), expected, rtol=1e-6)
    assert describe_storage(model) == (
        f"is FP8: 1 tensors with {told}, dequantised, bfloat16 in a result",
        "has 1 scales of activations, left out, first x.input_scale",
    )
    assert "quantization_config" not in model.config


def test_power_of_two_scales_and_e5m2(tmp_path: Path) -> None:
    weight = fp8(32, 32, kind=torch.float8_e5m2)
    tensors = {"x.weight": weight}
    scale = torch.tensor([[0.5, 2.0], [4.0, 0.25]])
    if hasattr(torch, "float8_e8m0fnu"):
        scale = scale.to(torch.float8_e8m0fnu)
    model = opened(write(tmp_path / "m", tensors | {"x.weight_scale_inv": scale}, DEEPSEEK, torch_dtype="float16"))
    expected = slow_twin(weight, scale.float(), (16, 16))
    np.testing.assert_array_equal(read_tensor(model, "x.weight").double().numpy(), expected)
    assert model.info("x.weight").dtype == torch.float16


def test_fp8_without_scales_is_a_plain_cast(tmp_path: Path) -> None:
    weight = fp8(4, 5)
    model = opened(write(tmp_path / "m", {"x.weight": weight}, None, torch_dtype="float8_e4m3fn"))
    assert read_tensor(model, "x.weight").equal(weight.float())
    assert model.config["torch_dtype"] == "bfloat16"
    assert (
        describe_storage(model)[0] == "is FP8: 1 tensors with no scale (1 of them), dequantised, bfloat16 in a result"
    )


def test_a_nested_configuration_loses_its_quantisation(tmp_path: Path) -> None:
    text = {"quantization_config": DEEPSEEK, "torch_dtype": "float16", "hidden_size": 3}
    model = opened(write(tmp_path / "m", {"x.weight": fp8(4, 5)}, None, text_config=text, torch_dtype="auto"))
    assert model.config["text_config"] == {"torch_dtype": "float16", "hidden_size": 3}
    assert model.info("x.weight").dtype == torch.float16


@pytest.mark.parametrize(
    ("tensors", "quantisation", "message"),
    [
        (
            {},
            {"quant_method": "gptq", "bits": 4},
            r"is quantised by 'gptq', only FP8 is read \(fp8, comp",
        ),
        ({}, {"quant_method": "bitsandbytes"}, r"is quantised by 'bitsandbytes', .*\. Name the model that it was made"),
        ({}, {"bits": 4}, r"is quantised by None, only FP8 is read"),
        ({}, groups(num_bits=4, type="int"), r"holds weights of 4 bits \(int\), only FP8 is read"),
        (
            {"y.weight_scale": scales(1)},
            DEEPSEEK,
            r"y\.weight_scale: is a scale without its tensor, so the weights",
        ),
        ({"y.weight_scale_inv": scales(1)}, DEEPSEEK, r"y\.weight_scale_inv: is a scale without its tensor"),
        (
            {"y.weight": fp8(40, 33), "y.weight_scale_inv": scales(3, 2)},
            DEEPSEEK,
            r"expected a scale of shape \(1,\) or .*\(3, 3\) or .* for \(40, 33\), found \(3, 2\)",
        ),
        (
            {"y.weight": scales(4, 4), "y.weight_scale": scales(1)},
            DEEPSEEK,
            r"is a torch\.float32 scale of a tensor in torch\.float32, expected real scales of FP8",
        ),
        (
            {"y.weight": fp8(4, 4), "y.weight_zero_point": torch.zeros(1, dtype=torch.int8)},
            DEEPSEEK,
            r"y\.weight_zero_point: is a torch\.int8 scale of a tensor in torch\.float8_e4m3fn",
        ),
    ],
)
def test_what_is_refused(tensors: Tensors, quantisation: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=message):
        open_model(str(write(tmp_path / "m", {"x.weight": fp8(4, 5)} | tensors, quantisation)))


def test_many_bad_scales_are_counted(tmp_path: Path) -> None:
    tensors = {f"x{number}.weight_scale": scales(1) for number in range(8)}
    with pytest.raises(AftermixError, match=r"(?s)6 problems.*3 more scales like these"):
        open_model(str(write(tmp_path / "m", tensors, DEEPSEEK)))


def quantise(folder: Path, source: Path, *, block: int = 16) -> Path:
    """What a training framework would have stored: the matrices of the layers in FP8 with block scales."""
    stored = load_file(source / "model.safetensors")
    tensors: Tensors = {}
    for name, tensor in stored.items():
        tensors[name] = tensor
        if "proj" in name:
            rows, columns = (-(-length // block) for length in tensor.shape)
            scale = torch.empty(rows, columns)
            weight = torch.empty(tensor.shape, dtype=torch.float8_e4m3fn)
            for row, column in np.ndindex(rows, columns):
                part = (slice(row * block, (row + 1) * block), slice(column * block, (column + 1) * block))
                scale[row, column] = tensor[part].float().abs().max() / 448
                weight[part] = (tensor[part].float() / scale[row, column]).to(torch.float8_e4m3fn)
            tensors |= {name: weight, f"{name}_scale_inv": scale}
    config = json.loads((source / "config.json").read_text())
    write(folder, tensors, DEEPSEEK | {"weight_block_size": [block, block]}, **config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def test_an_fp8_base_gives_a_plain_model(family: Family, tmp_path: Path) -> None:
    folder = quantise(tmp_path / "fp8", family["base"])
    config = Config(base=str(folder), vectors={"b": VectorConfig(model=str(family["b"]), weight=0.5)})
    out = merge(config, tmp_path / "out")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    tensors = load_file(out / "model.safetensors")
    assert not [name for name in tensors if "scale" in name]
    base, expert = opened(folder), load_file(family["b"] / "model.safetensors")
    ours = read_tensor(base, MOVED).double()
    expected = (ours + 0.5 * (expert[MOVED].double() - ours)).float().to(torch.bfloat16)
    torch.testing.assert_close(tensors[MOVED], expected, rtol=2**-8, atol=0)
    from transformers import AutoModelForCausalLM

    served = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert served.get_parameter(MOVED).dtype == torch.bfloat16
    assert served.get_parameter(MOVED).equal(tensors[MOVED])


def test_an_fp8_vector_and_what_doctor_says(family: Family, tmp_path: Path) -> None:
    folder = quantise(tmp_path / "fp8", family["b"])
    vectors = {"b": VectorConfig(model=str(folder), weight=1.0)}
    config = Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig(method="task_arithmetic"))
    found = doctor(config)
    assert not found.problems
    told = "vector 'b' is FP8: 14 tensors with 16 x 16 block scales, dequantised, bfloat16 in a result"
    assert told in found.facts
    tensors = load_file(merge(config, tmp_path / "out") / "model.safetensors")
    expected = read_tensor(opened(folder), MOVED).to(torch.bfloat16)
    torch.testing.assert_close(tensors[MOVED], expected, rtol=2**-7, atol=1e-6)
    lock = json.loads((tmp_path / "out" / "lock.json").read_text())
    assert list(lock["inputs"]["vectors.b"]["files"]) == ["model.safetensors"]


def test_nan_in_a_scale_stops_a_merge(family: Family, tmp_path: Path) -> None:
    folder = quantise(tmp_path / "fp8", family["b"])
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{MOVED}_scale_inv"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    config = Config(base=str(family["base"]), vectors={"b": VectorConfig(model=str(folder))})
    with pytest.raises(AftermixError, match=r"up_proj\.weight: vector 'b' .* holds 256 NaN or Inf values"):
        merge(config, tmp_path / "out")


def test_a_live_model_is_filled_with_the_dequantised_base(family: Family, tasks: Path, tmp_path: Path) -> None:
    from aftermix.evaluation.engines.hf import HuggingFaceEngine

    folder = quantise(tmp_path / "fp8", family["base"])
    vectors = {"b": VectorConfig(model=str(family["b"]))}
    pool = open_pool(Config(base=str(folder), vectors=vectors))
    config = EvaluateConfig(tasks=["colours"], include_path=str(tasks))
    engine = HuggingFaceEngine.open(pool.frame, tokenizer_folder=folder, config=config)
    live = dict(engine.lm.model.state_dict())
    assert live[MOVED].equal(read_tensor(pool.frame, MOVED))
    assert live["lm_head.weight"].equal(live["model.embed_tokens.weight"])
    assert not any(parameter.isnan().any() for parameter in engine.lm.model.parameters())
    engine.close()


def test_prompts_for_an_fp8_base_are_built_by_doctor(family: Family, tasks: Path, tmp_path: Path) -> None:
    """Its tokenizer and its length are enough: the same faults and notes as for the plain base."""
    folder = quantise(tmp_path / "fp8", family["base"])

    def examine(base: Path, **values: Any) -> tuple[list[str], list[str]]:
        evaluate = EvaluateConfig(tasks=["colours"], include_path=str(tasks), items=COUNTS, **values)
        found = doctor(Config(base=str(base), vectors={"b": VectorConfig(model=str(family["b"]))}, evaluate=evaluate))
        return [str(each) for each in found.problems], [str(each) for each in found.notes]

    problems, notes = examine(folder, max_length=20)
    assert problems == []
    (cut,) = [note for note in notes if "prompts that lose their beginning" in note]
    assert cut in examine(family["base"], max_length=20)[1]

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (problem,) = examine(folder)[0]
    assert problem.startswith(f"{folder}: has no usable tokenizer (")


def test_a_dequantised_base_that_lacks_a_tensor_is_not_evaluated(family: Family, tasks: Path, tmp_path: Path) -> None:
    from aftermix.evaluation.engines.hf import HuggingFaceEngine

    folder = quantise(tmp_path / "fp8", family["base"])
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors | {"extra.weight": scales(3)}, folder / "model.safetensors")
    config = EvaluateConfig(tasks=["colours"], include_path=str(tasks))
    with pytest.raises(EvaluationError, match=r"(?s)model\.norm\.weight: is not in the checkpoint.*extra\.weight: has"):
        HuggingFaceEngine.open(folder, tokenizer_folder=folder, config=config)


def test_an_adapter_on_an_fp8_base_scores_as_the_folded_models_do(family: Family, tasks: Path, tmp_path: Path) -> None:
    """The whole path of an evaluation: filled model, difference from the factors, the same scores as plain folders."""
    base = quantise(tmp_path / "fp8", family["base"])
    module = MOVED.removesuffix(".weight")
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 200}))
    factors = {"lora_A.weight": scales(4, 32), "lora_B.weight": scales(48, 4) - 1}
    save_file({f"base_model.model.{module}.{n}": t for n, t in factors.items()}, adapter / "adapter_model.safetensors")
    merge_config = MergeConfig(method="task_arithmetic", dtype="float32")
    evaluation = EvaluateConfig(tasks=["colours"], include_path=str(tasks), items=ItemsConfig(search=8, select=8))
    vectors = {"lora": VectorConfig(model=str(adapter), weight=0.5)}
    config = Config(base=str(base), vectors=vectors, merge=merge_config, evaluate=evaluation)
    folded = merge(config, tmp_path / "folded")
    moved, start = load_file(folded / "model.safetensors")[MOVED], read_tensor(opened(base), MOVED)
    assert (moved - start).abs().max() > 1
    plain = Config(base=str(folded), vectors={}, evaluate=evaluation)
    ours, theirs = (evaluate(made, split="test") for made in (config, plain))
    assert ours.tasks == theirs.tasks
    assert evaluate(Config(base=str(base), evaluate=evaluation), split="test").tasks != ours.tasks
