"""Two spellings of one configuration are equal, a key that is left out has its family's default, all else is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.alignment.families.settings import compare_settings, read_defaults
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Settings = dict[str, Any]
ROPE_4 = {"rope_theta": 10000.0, "rope_scaling": None}
GEMMA_4 = {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": {"type": "linear", "factor": 8}}
GEMMA_5 = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
}
EQUAL: dict[str, tuple[str, Settings, Settings]] = {
    "rope of two versions": ("llama", ROPE_4, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
    "the family's theta": ("llama", {}, {"rope_theta": 10000}),
    "names of the kind": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "kinds of layers": ("gemma3_text", GEMMA_4, GEMMA_5),
    "mrope": (
        "qwen2_vl_text",
        {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}},
    ),
    "a share of the head": (
        "gpt_neox",
        {"rotary_pct": 0.25, "rotary_emb_base": 10000},
        {"rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e4, "rope_type": "default"}},
    ),
    "local layers": ("modernbert", {"global_rope_theta": 160000.0, "local_rope_theta": 1e4}, {}),
    "a window that is off": ("qwen2", {"use_sliding_window": False, "sliding_window": 32768}, {"sliding_window": None}),
    "computed heads": (
        "llama",
        {"num_attention_heads": 4, "hidden_size": 32},
        {"num_attention_heads": 4, "hidden_size": 32, "num_key_value_heads": 4, "head_dim": 8},
    ),
    "off is off": ("llama", {"mlp_bias": False, "attention_bias": None}, {}),
    "softcaps of Gemma 2": ("gemma2", {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}, {}),
    "activations of Gemma": ("gemma2", {"hidden_act": "gelu", "hidden_activation": None}, {}),
    "types": ("llama", {"torch_dtype": "bfloat16", "dtype": None}, {"dtype": "bfloat16"}),
    "what remote code wrote": ("deepseek_v3", {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}, {}),
}


@pytest.mark.parametrize("case", EQUAL)
def test_two_spellings_are_one_configuration(case: str) -> None:
    family, ours, theirs = EQUAL[case]
    for one, other in ((ours, theirs), (theirs, ours)):
        assert compare_settings({"model_type": family, **one}, {"model_type": family, **other}) == []


DIFFERENT: dict[str, tuple[str, Settings, Settings, list[tuple[str, Any, Any]]]] = {
    "Llama 2 and CodeLlama": ("llama", {}, {"rope_theta": 1e6}, [("rope_theta", 1e4, 1e6)]),
    "another version's theta": (
        "llama",
        ROPE_4,
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        [("rope_theta", 1e4, 1e6)],
    ),
    "a longer window": (
        "llama",
        {"rope_scaling": None, "max_position_embeddings": 64},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 256},
        [("max_position_embeddings", 64, 256), ("rope_scaling", None, {"rope_type": "yarn", "factor": 4.0})],
    ),
    "local layers alone": (
        "gemma3_text",
        GEMMA_4,
        {**GEMMA_4, "rope_local_base_freq": 5000.0},
        [("rope_theta of sliding_attention", 1e4, 5e3)],
    ),
    "logits": (
        "llama",
        {"logits_scaling": 8.0, "final_logit_softcapping": 30.0},
        {"logits_scaling": 16.0},
        [("final_logit_softcapping", 30.0, None), ("logits_scaling", 8.0, 16.0)],
    ),
    "the family's softcap": (
        "gemma2",
        {},
        {"final_logit_softcapping": None},
        [("final_logit_softcapping", 30.0, None)],
    ),
    "Granite": ("granite", {"residual_multiplier": 0.22}, {}, [("residual_multiplier", 0.22, 1.0)]),
    "a window": ("mistral", {"sliding_window": None}, {}, [("sliding_window", None, 4096)]),
    "another norm": ("bert", {}, {"layer_norm_eps": 1e-5}, [("layer_norm_eps", 1e-12, 1e-5)]),
    "no family": ("own", {"rms_norm_eps": 1e-5, "qk_norm": True}, {"rms_norm_eps": 1e-5}, [("qk_norm", True, None)]),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_missing_key_is_not_an_equal_key(case: str) -> None:
    family, ours, theirs, wanted = DIFFERENT[case]
    found = compare_settings({"model_type": family, **ours}, {"model_type": family, **theirs})
    assert [(each.key, each.ours, each.theirs) for each in found] == wanted


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "bert", "gpt_neox", "mixtral", "clip_vision_model", "phi"])
def test_the_kept_defaults_are_those_of_transformers(family: str) -> None:
    from tools.family_defaults import collect_defaults

    assert read_defaults()[family] == json.loads(json.dumps(collect_defaults(family)))


def edit(folder: Path, **values: Any) -> None:
    stored = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in (stored | values).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def test_differences_are_told_and_other_heads_refused(copied: Callable[[str], Path], tmp_path: Path) -> None:
    base, expert = copied("base"), copied("b")
    config = Config(base=str(base), vectors={"b": VectorConfig(model=str(expert), weight=0.5)})
    edit(base, rope_parameters=...)
    edit(expert, rope_parameters=..., rope_theta=1e6)
    told = (
        "config.json: vector 'b' has rope_theta = 1000000.0, base has 10000.0. The merged model keeps the base's value."
    )
    lines: list[str] = []
    merge(config, tmp_path / "out", log=lines.append)
    assert told in lines
    assert told in [str(note) for note in doctor(config).notes]

    edit(expert, rope_theta=10000)
    lines.clear()
    merge(config, tmp_path / "again", log=lines.append)
    assert not [line for line in lines if line.startswith("config.json")]

    edit(base, num_key_value_heads=...)  # as many as there are heads, then
    with pytest.raises(AftermixError, match="vector 'b' has num_key_value_heads = 2, base has 4"):
        merge(config, tmp_path / "refused")


@pytest.mark.parametrize("inner", ["vision_model.", ""])
def test_a_vision_vector_is_held_against_the_vision_part(inner: str, tmp_path: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPVisionModel

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = sizes | {"hidden_size": 16, "vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 2}
    vision = sizes | {"hidden_size": 24, "num_attention_heads": 3, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path / "base")
    expert = CLIPVisionModel.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.add_(0.01)
    expert.save_pretrained(tmp_path / "a")
    stored = {
        name.removeprefix("vision_model."): each for name, each in load_file(tmp_path / "a/model.safetensors").items()
    }
    save_file(
        {f"{inner}{name}": each for name, each in stored.items()}, tmp_path / "a/model.safetensors", {"format": "pt"}
    )

    vectors: Mapping[str, Settings] = {"a": {"model": str(tmp_path / "a"), "weight": 0.5}}
    with pytest.raises(AftermixError) as raised:
        merge(Config.model_validate({"base": str(tmp_path / "base"), "vectors": vectors}), tmp_path / "out")
    entry = f'`prefix: {{"{inner}": "vision_model."}}`'
    assert entry in str(raised.value)

    vectors["a"]["prefix"] = {inner: "vision_model."}
    out = merge(Config.model_validate({"base": str(tmp_path / "base"), "vectors": vectors}), tmp_path / "out")
    base, result = load_file(tmp_path / "base/model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in base.items():
        moved = name.startswith("vision_model.") and tensor.is_floating_point()
        assert torch.allclose(result[name].float(), tensor.float() + (0.005 if moved else 0.0), atol=1e-5), name
