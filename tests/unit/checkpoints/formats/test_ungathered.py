"""Tensors without numbers, as ZeRO-3 saves what is not gathered: one line for the model, with what helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.formats.ungathered import GATHER
from aftermix.checkpoints.pool import examine_pool
from aftermix.config import Config, VectorConfig

Family = dict[str, Path]


def empty(folder: Path, part: str) -> Path:
    tensors = load_file(folder / "model.safetensors")
    emptied = {name: torch.empty(0, dtype=t.dtype) if part in name else t for name, t in tensors.items()}
    save_file(emptied, folder / "model.safetensors", {"format": "pt"})
    return folder


def list_faults(base: Path, expert: Path) -> list[str]:
    config = Config(base=str(base), vectors={"b": VectorConfig(model=str(expert))})
    return [str(problem) for problem in examine_pool(config).problems]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("mlp", "model.layers.0.mlp.down_proj.weight and 5 more"),
        ("model.norm", "model.norm.weight"),
        ("layers.1", "model.layers.1.input_layernorm.weight and 8 more"),
    ],
)
@pytest.mark.parametrize("owner", ["base", "b"])
def test_a_model_is_one_line(part: str, named: str, owner: str, family: Family, tmp_path: Path) -> None:
    folders = {name: Path(shutil.copytree(family[name], tmp_path / name)) for name in ("base", "b")}
    empty(folders[owner], part)
    title = "the base" if owner == "base" else "vector 'b'"
    told = f"{folders[owner]}: {title} holds no numbers in {named}, as ZeRO-3 saves what is not gathered. {GATHER}"
    assert list_faults(folders["base"], folders["b"]) == [told]


def test_an_adapter_is_one_line(family: Family, tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    names = [f"{module}.lora_A.weight", f"{module}.lora_B.weight"]
    save_file({name: torch.empty(0) for name in names}, tmp_path / "adapter_model.safetensors")
    told = f"{tmp_path}: the adapter holds no numbers in {names[0]} and 1 more, as ZeRO-3 saves what is not gathered"
    assert list_faults(family["base"], tmp_path) == [f"{told}. {GATHER}"]


def test_an_adapter_of_mlx_is_named(family: Family, tmp_path: Path) -> None:
    settings = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"model.layers.0.self_attn.q_proj.lora_a": torch.ones(32, 4)}, tmp_path / "adapters.safetensors")
    told = "is an adapter of MLX, only those of PEFT are read. Fold it into its base with `mlx_lm.fuse`, and name the"
    assert list_faults(family["base"], tmp_path) == [f"{tmp_path}: {told} result."]
