"""Layers and kinds read off names, over the names that transformers' families really have."""

from __future__ import annotations

from typing import Any

import pytest

from aftermix.analysis.tensor_kinds import KINDS, TensorKind, label_layers, read_tensor_kind

SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64}
BLOCK = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
ATTENTION = {"attention q", "attention k", "attention v", "attention o"}
GATED = {"embeddings", "norm", "head", "mlp gate", "mlp up", "mlp down", *ATTENTION}
MOE = (GATED - {"mlp gate", "mlp up"}) | {"mlp gate up", "router"}
PLAIN = {"embeddings", "norm", "head", "mlp up", "mlp down"}
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 64}
T5 = {"num_layers": 2, "d_model": 32, "d_ff": 48, "num_heads": 4, "vocab_size": 64, "feed_forward_proj": "gated-gelu"}
FAMILIES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "LlamaForCausalLM": ("LlamaConfig", BLOCK, GATED),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {**BLOCK, "head_dim": 8}, GATED),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {**BLOCK, "num_experts": 4, "moe_intermediate_size": 16}, MOE),
    "MixtralForCausalLM": ("MixtralConfig", {**BLOCK, "num_local_experts": 4}, MOE),
    "PhiForCausalLM": ("PhiConfig", BLOCK, PLAIN | ATTENTION),
    "Phi3ForCausalLM": (
        "Phi3Config",
        {**BLOCK, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
        {"embeddings", "norm", "head", "attention qkv", "attention o", "mlp gate up", "mlp down"},
    ),
    "GPT2LMHeadModel": ("GPT2Config", GPT2, PLAIN | {"positions", "attention qkv", "attention o"}),
    "GPTNeoXForCausalLM": (
        "GPTNeoXConfig",
        {**SMALL, "intermediate_size": 48},
        PLAIN | {"attention qkv", "attention o"},
    ),
    "BloomForCausalLM": (
        "BloomConfig",
        {"n_layer": 2, "hidden_size": 32, "n_head": 4, "vocab_size": 64},
        PLAIN | {"attention qkv", "attention o"},
    ),
    "MambaForCausalLM": (
        "MambaConfig",
        {"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 64},
        {"embeddings", "norm", "head", "mixer"},
    ),
    "T5ForConditionalGeneration": ("T5Config", T5, GATED | {"positions"}),
    "BertForMaskedLM": ("BertConfig", {**SMALL, "intermediate_size": 48}, PLAIN | ATTENTION | {"positions"}),
    "ViTForImageClassification": (
        "ViTConfig",
        {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4},
        PLAIN | ATTENTION | {"positions"},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_of_a_family_is_of_an_unknown_kind(family: str) -> None:
    import torch
    import transformers

    config, options, kinds = FAMILIES[family]
    with torch.device("meta"):
        model = getattr(transformers, family)(getattr(transformers, config)(**options))
    places = {name: read_tensor_kind(name) for name in model.state_dict()}
    assert {place.kind for place in places.values()} == kinds, places
    assert {place.number for place in places.values()} == {-1, 0, 1}
    stacks = 2 if family.startswith("T5") else 1
    assert len({place.stack for place in places.values() if place.stack}) == stacks


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "attention kv"),
        ("model.layers.0.self_attn.q_b_proj.weight", "attention q"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", "mlp gate"),
        ("model.layers.0.block_sparse_moe.experts.3.w2.weight", "mlp down"),
        ("model.layers.0.block_sparse_moe.experts.3.w3.weight", "mlp up"),
        ("model.layers.0.block_sparse_moe.gate.weight", "router"),
        ("model.layers.0.self_attn.sinks", "other"),
        ("language_model.lm_head.weight", "head"),
        ("model.language_model.layers.3.mlp.gate_proj.weight", "mlp gate"),
        ("blocks.0.attention.time_mix_key", "mixer"),
        ("whatever", "other"),
        ("", "other"),
    ],
)
def test_names_of_single_families(name: str, kind: str) -> None:
    assert read_tensor_kind(name).kind == kind
    assert kind in KINDS


def test_stacks_are_told_apart() -> None:
    names = [
        "model.vision_tower.layers.1.x",
        "model.language_model.layers.10.x",
        "model.language_model.layers.9.x",
        "x",
    ]
    assert label_layers([read_tensor_kind(name) for name in names]) == {
        ("", -1): "outside layers",
        ("model.language_model.layers", 9): "language_model 9",
        ("model.language_model.layers", 10): "language_model 10",
        ("model.vision_tower.layers", 1): "vision_tower 1",
    }
    deep = [TensorKind("a", 0, "other"), TensorKind("a.b", 0, "other")]
    assert set(label_layers(deep).values()) == {"a 0", "a.b 0"}
