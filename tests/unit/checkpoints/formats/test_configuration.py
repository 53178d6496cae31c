"""config.json against the tensors beside it: the tensors decide, and it is said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.model import describe_storage, read_tensor
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import Config, EvaluateConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge

Copy = Callable[[str], Path]
Family = dict[str, Path]
BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"quantization_config": BITS}, "`quantization_config` (bitsandbytes)"),
        ({"quantization_config": FP8}, "`quantization_config` (fp8)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "`quantization_config` (gptq)"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "`compression_config` (compressed-tensors)"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "`quantization` (4)"),
        ({"text_config": {"quantization_config": BITS}}, "`quantization_config` (bitsandbytes)"),
    ],
)
def test_an_entry_on_quantisation_over_plain_weights_is_left_out(
    entry: dict[str, Any], named: str, copied: Copy, family: Family, tmp_path: Path
) -> None:
    base = copied("base")
    edit_json(base / "config.json", **entry)
    lines: list[str] = []
    config = Config(base=str(base), vectors={"b": VectorConfig(model=str(family["b"]), weight=0.0)})
    out = merge(config, tmp_path / "out", log=lambda line: lines.append(str(line)))
    told = f"base has {named} in config.json and no quantised weights: read as stored, the entry is left out"
    assert lines == [told]

    found, stored = load_file(out / "model.safetensors"), load_file(base / "model.safetensors")
    assert all(found[name].equal(tensor) and found[name].dtype == tensor.dtype for name, tensor in stored.items())
    settings = json.loads((out / "config.json").read_text())
    assert settings == json.loads((family["base"] / "config.json").read_text()) | (
        {"text_config": {}} if "text_config" in entry else {}
    )


def test_a_base_with_a_leftover_is_evaluated(copied: Copy) -> None:
    from aftermix.evaluation.engines.hf import HuggingFaceEngine

    base = copied("base")
    edit_json(base / "config.json", quantization_config=BITS)
    model = open_model(str(base))
    engine = HuggingFaceEngine.open(model, tokenizer_folder=base, config=EvaluateConfig(tasks=["x"], threads=1))
    live = engine.lm.model.state_dict()
    assert all(live[name].equal(read_tensor(model, name).float()) for name in model.tensors)


@pytest.mark.parametrize(
    "packed",
    [
        {"model.layers.0.mlp.up_proj.qweight": torch.zeros(4, 48, dtype=torch.int32)},
        {"model.layers.0.mlp.up_proj.weight": torch.zeros(48, 32, dtype=torch.int8)},
        {"model.layers.0.mlp.up_proj.weight": torch.zeros(768, 1, dtype=torch.uint8)},
    ],
)
def test_integers_are_no_leftover(packed: dict[str, torch.Tensor], copied: Copy) -> None:
    base = copied("base")
    edit_json(base / "config.json", quantization_config=BITS)
    save_file(load_file(base / "model.safetensors") | packed, base / "model.safetensors")
    with pytest.raises(AftermixError, match="is quantised by 'bitsandbytes', only FP8 is read"):
        open_model(str(base))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"vocab_size": 300},
            "has 320 rows of tokens, config.json says `vocab_size` = 300: transformers will not load it",
        ),
        (
            {"num_hidden_layers": 3},
            "stores 2 layers, config.json says 3: transformers fills the others at random",
        ),
    ],
)
def test_other_numbers_are_told(entry: dict[str, int], told: str, copied: Copy) -> None:
    base = copied("base")
    edit_json(base / "config.json", **entry)
    assert describe_storage(open_model(str(base))) == (told,)


def test_nothing_is_told_of_what_agrees(family: Family) -> None:
    for folder in family.values():
        model = open_model(str(folder))
        assert describe_storage(model) == ()
        assert isinstance(model, Checkpoint)
        assert model.config == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("entries", "wide", "told"),
    [
        (
            {"torch_dtype": "bfloat16", "dtype": None},
            "",
            "stores its weights in float32, config.json says `torch_dtype` = bfloat16: read as stored",
        ),
        (
            {"dtype": "float16"},
            "model.norm",
            "stores most of its weights in float32, config.json says `dtype` = float16: read as stored",
        ),
        (
            {"dtype": "float32", "torch_dtype": "float16", "text_config": {"dtype": "float16"}},
            "mlp|attn|embed",
            "stores most of its weights in bfloat16, config.json says `dtype` = float32, `torch_dtype` = float16: "
            "read as stored",
        ),
        (
            {"torch_dtype": "torch.float16"},
            "",
            "stores its weights in float32, config.json says `dtype` = bfloat16, `torch_dtype` = torch.float16: "
            "read as stored",
        ),
    ],
)
def test_the_type_that_is_stored_is_the_type_that_a_result_names(
    entries: dict[str, Any], wide: str, told: str, copied: Copy, family: Family, tmp_path: Path
) -> None:
    """`wide` names the tensors that keep bfloat16; all others are widened to float32."""
    base = copied("base")
    settings = {key: value for key, value in (read_json(base) | entries).items() if value is not None}
    (base / "config.json").write_text(json.dumps(settings))
    stored = load_file(base / "model.safetensors")
    widened = {name: t if wide and re.search(wide, name) else t.float() for name, t in stored.items()}
    save_file(widened, base / "model.safetensors", metadata={"format": "pt"})

    lines: list[str] = []
    config = Config(base=str(base), vectors={"b": VectorConfig(model=str(family["b"]), weight=0.0)})
    out = merge(config, tmp_path / "out", log=lambda line: lines.append(str(line)))
    assert lines == [f"base {told}"]

    # Weights 0 give the base, and the configuration says what is written.
    found = load_file(out / "model.safetensors")
    assert all(found[name].equal(t) and found[name].dtype == t.dtype for name, t in widened.items())
    named = "bfloat16" if "attn" in wide else "float32"
    written = read_json(out)
    assert {written[key] for key in ("dtype", "torch_dtype") if key in written} == {named}
    assert written.get("text_config", {"dtype": named}) == {"dtype": named}


def test_a_type_asked_for_is_named_in_every_entry(copied: Copy, family: Family, tmp_path: Path) -> None:
    base = copied("base")
    edit_json(base / "config.json", torch_dtype="bfloat16", text_config={"torch_dtype": "bfloat16", "vocab_size": 320})
    vectors = {"b": VectorConfig(model=str(family["b"]))}
    config = Config(base=str(base), vectors=vectors, merge={"method": "task_arithmetic", "dtype": "float16"})  # type: ignore[arg-type]
    written = read_json(merge(config, tmp_path / "out"))
    assert (written["dtype"], written["torch_dtype"]) == ("float16", "float16")
    assert written["text_config"] == {"torch_dtype": "float16", "vocab_size": 320}


@pytest.mark.parametrize("named", ["auto", None, "bfloat16", "torch.bfloat16", 16])
def test_no_type_and_the_right_type_are_not_told(named: object, copied: Copy) -> None:
    base = copied("base")
    edit_json(base / "config.json", dtype=named, torch_dtype=named)
    model = open_model(str(base))
    assert describe_storage(model) == ()
    assert model.config == read_json(base)


def read_json(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values
