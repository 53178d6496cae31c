"""Adapters made by PEFT, merged here with weight 1, against PEFT's own `merge_and_unload`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aftermix.checkpoints.formats.lora.adapter import LoraAdapter
from aftermix.checkpoints.open_model import open_model
from aftermix.config import Config, VectorConfig
from aftermix.jobs.merge.command import merge

peft = pytest.importorskip("peft")

Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]


def peft_tensors(model: Any) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in model.merge_and_unload().state_dict().items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "up_proj"]},
        {
            "target_modules": "all-linear",
            "use_rslora": True,
            "rank_pattern": {"v_proj": 2},
            "alpha_pattern": {"k_proj": 1},
        },
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "init_lora_weights": "orthogonal"},
        {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [2]}},
    ],
)
def test_parity_with_peft_on_llama(settings: dict[str, Any], untied_family: Family, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(untied_family["base"], dtype=torch.float32)
    check_parity(model, untied_family["base"], tmp_path, settings)


@pytest.mark.parametrize("settings", [{"fan_in_fan_out": True}, {"use_dora": True}, {"lora_bias": True}])
def test_parity_with_peft_on_gpt2(settings: dict[str, Any], tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    check_parity(model, tmp_path / "base", tmp_path, {"target_modules": ["c_attn", "c_proj", "c_fc"]} | settings)


def test_one_flag_for_layers_of_both_kinds(tmp_path: Path) -> None:
    """PEFT saves `fan_in_fan_out` of the last layer, a Linear; the square Conv1D before it must be transposed still."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1))
    model.save_pretrained(tmp_path / "base")
    check_parity(model, tmp_path / "base", tmp_path, {"target_modules": ["c_attn", "c_proj", "lm_head", "wte"]})
    assert not json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"]


def check_parity(model: Any, base: Path, folder: Path, settings: dict[str, Any]) -> None:
    """A trained-looking adapter saved by PEFT, merged here with weight 1, against PEFT's own folding."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    adapted.save_pretrained(folder / "adapter")
    config = Config(base=str(base), vectors={"lora": VectorConfig(model=str(folder / "adapter"), weight=1.0)})
    ours = load_file(merge(config, folder / "out") / "model.safetensors")
    theirs = peft_tensors(adapted)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs.get(name, theirs.get(f"transformer.{name}")), rtol=1e-5, atol=1e-6)
    stored = load_file(base / "model.safetensors")
    moved = [name for name in ours if not ours[name].equal(stored[name])]
    adapter = open_model(str(folder / "adapter"), base=open_model(str(base)))
    assert isinstance(adapter, LoraAdapter)
    assert len(moved) == len(adapter.changes) >= 3
