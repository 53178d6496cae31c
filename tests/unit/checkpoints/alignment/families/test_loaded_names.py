"""What transformers renames, leaves out or computes when it loads a file does not stop a merge, and is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.alignment.families.renames import modernise_name
from aftermix.checkpoints.alignment.families.unloaded import holds_computed_values
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge
from support.own_world import make_encoders

Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"


def make_config(base: Path, **models: Path) -> Config:
    return Config(base=str(base), vectors={n: VectorConfig(model=str(p), weight=0.5) for n, p in models.items()})


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def respell(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("older", ["base", "expert", "one of two"])
def test_layer_norms_of_earlier_files_are_those_of_later_ones(older: str, tmp_path: Path) -> None:
    family = make_encoders(tmp_path)
    base, a, b = (load_file(path / WEIGHTS) for path in family.values())
    for name in {"base": ["base"], "expert": ["a", "b"], "one of two": ["b"]}[older]:
        rewrite(family[name], lambda tensors: {respell(name): tensor for name, tensor in tensors.items()})

    lines: list[str] = []
    result = load_file(merge(make_config(**family), tmp_path / "out", log=lines.append) / WEIGHTS)
    shown = (respell if older == "base" else str.__str__)("embeddings.LayerNorm.bias")
    assert shown in result
    for name in base:
        stored = respell(name) if older == "base" else name
        wanted = base[name] + 0.5 * (a[name] - base[name]) + 0.5 * (b[name] - base[name])
        assert torch.allclose(result[stored], wanted, atol=1e-6)
    assert any("under names that transformers renames, first " in line for line in lines)


def test_names_that_a_trainers_wrapper_lengthens_are_those_of_the_base(
    copied: Callable[[str], Path], family: Family, tmp_path: Path
) -> None:
    expert, wrapped = copied("b"), {"layers.1.": "layers.1._checkpoint_wrapped_module.", "model.": "model._orig_mod."}

    def wrap(name: str) -> str:
        for plain, longer in wrapped.items():
            name = name.replace(plain, longer)
        return f"module.{name}"

    rewrite(expert, lambda tensors: {wrap(name): tensor for name, tensor in tensors.items()})
    lines: list[str] = []
    found = merge(make_config(family["base"], x=expert), tmp_path / "out", log=lines.append) / WEIGHTS
    plain = merge(make_config(family["base"], x=family["b"]), tmp_path / "plain") / WEIGHTS
    assert found.read_bytes() == plain.read_bytes()
    assert any(
        "under names that a trainer's wrapper gives them, first module.model._orig_mod." in line for line in lines
    )

    # A base would keep such names in the result, which nothing loads.
    with pytest.raises(AftermixError, match="has no such tensor, the base does"):
        merge(make_config(expert, x=family["base"]), tmp_path / "never")


def test_names_of_weight_norm_and_of_vision_transformers_are_known() -> None:
    assert modernise_name("encoder.pos_conv_embed.conv.weight_v").endswith("conv.parametrizations.weight.original1")
    assert modernise_name("vit.encoder.layer.3.attention.attention.key.bias") == "vit.layers.3.attention.k_proj.bias"
    assert modernise_name("vit.encoder.layer.3.output.dense.weight") == "vit.layers.3.mlp.fc2.weight"
    assert modernise_name("gpt_neox.embed_out.weight") == "gpt_neox.lm_head.weight"
    for name in ("model.layers.0.self_attn.q_proj.weight", "ls1.gamma", "bert.pooler.dense.bias"):
        assert modernise_name(name) == name


FREQUENCIES = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
ANGLES = torch.outer(torch.arange(16.0), FREQUENCIES)
COMPUTED: dict[str, torch.Tensor] = {
    "model.rotary_pos_emb.inv_freq": torch.rand(4),
    "model.layers.0.self_attn.rotary_emb.cos_cached": torch.rand(1, 1, 8, 8),
    "model.rope.freqs": torch.rand(4),
    "model.embed_positions.sin": torch.rand(4),
    "freqs_cis": torch.rand(8, 4),
    "model.turns": FREQUENCIES,
    "model.table": ANGLES.cos()[None, None],
    "model.positions": torch.cat([ANGLES.sin(), ANGLES.cos()], dim=-1),
    "model.layers.0.triangle": torch.ones(8, 8).tril(),
    "model.layers.1.blocked": torch.where(torch.eye(8) > 0, 0.0, -1e4).bfloat16(),
    "model.layers.0.seen": torch.ones(3, dtype=torch.int64),
    "model.layers.0.flags": torch.ones(8, 8, dtype=torch.bool),
}


@pytest.mark.parametrize("owner", ["base", "b"])
def test_buffers_under_any_name_may_be_in_one_file_alone(
    owner: str, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folders = {name: copied(name) for name in ("base", "b")}
    plain = load_file(merge(make_config(**folders), tmp_path / "plain") / WEIGHTS)
    rewrite(folders[owner], lambda tensors: tensors | COMPUTED)
    result = load_file(merge(make_config(**folders), tmp_path / "out") / WEIGHTS)
    assert {name for name in COMPUTED if name in result} == (set(COMPUTED) if owner == "base" else set())
    assert all(torch.equal(result[name], plain[name]) for name in plain)
    assert all(torch.equal(result[name], COMPUTED[name]) for name in COMPUTED if name in result)


def test_learned_numbers_are_not_taken_for_computed_ones(copied: Callable[[str], Path], tmp_path: Path) -> None:
    learned = [torch.rand(8), torch.ones(8), torch.zeros(8), torch.eye(8) + 0.1, torch.rand(8, 8), torch.ones(4, 4)]
    assert not any(map(holds_computed_values, learned))
    base = copied("base")
    rewrite(base, lambda tensors: tensors | {"model.extra": torch.rand(8)})
    with pytest.raises(AftermixError, match=r"model\.extra"):
        merge(make_config(base, b=copied("b")), tmp_path / "out")


@pytest.mark.parametrize("owner", ["base", "b"])
@pytest.mark.parametrize("prefix", ["model.layers.2.", "mtp.", "model.mtp_block."])
def test_layers_for_multi_token_prediction_may_be_in_one_file_alone(
    owner: str, prefix: str, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folders = {name: copied(name) for name in ("base", "b")}
    extra = {f"{prefix}{name}": torch.rand(32, 32) for name in ("eh_proj.weight", "self_attn.q_proj.weight")}
    rewrite(folders[owner], lambda tensors: tensors | extra)
    lines: list[str] = []
    result = load_file(merge(make_config(**folders), tmp_path / "out", log=lines.append) / WEIGHTS)
    assert {name for name in extra if name in result} == (set(extra) if owner == "base" else set())
    assert all(torch.equal(result[name], extra[name]) for name in extra if name in result)
    (told,) = [line for line in lines if "what loaders leave out or compute" in line]
    assert told.startswith("vector 'b' lacks" if owner == "base" else "vector 'b' has more than the base")

    # A layer within the number that its own config.json names is a layer.
    values = json.loads((folders[owner] / "config.json").read_text())
    (folders[owner] / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 3}))
    if prefix == "model.layers.2.":
        with pytest.raises(AftermixError, match="num_hidden_layers"):
            merge(make_config(**folders), tmp_path / "again")
