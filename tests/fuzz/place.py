"""A model folder in a copy of the hub's cache, filled anew for every input, with things around it to be left alone."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save

INDEX = "model.safetensors.index.json"
SHARDS = ("one.safetensors", "two.safetensors")
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-6,
}


class Place:
    """`folder` lies in `root` as a snapshot lies in the hub's cache; `outside` must not be read, `base` may be."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="aftermix-fuzz-")).resolve()
        atexit.register(shutil.rmtree, self.root, ignore_errors=True)
        self.folder = self.root / "cache" / "models--a--b" / "snapshots" / "0"
        self.blobs = self.root / "cache" / "models--a--b" / "blobs"
        self.outside = self.root / "outside"
        self.base = self.root / "base"
        for folder in (self.folder, self.blobs, self.outside, self.base):
            folder.mkdir(parents=True)
        self.readable = (self.folder, self.blobs, self.base)
        write_model(self.base, single_file())
        write_model(
            self.outside, save({name: tensor + 1 for name, tensor in shard_tensors(0).items()} | shard_tensors(1))
        )
        (self.blobs / "blob").write_bytes(save(shard_tensors(0)))

    def fill(self, files: Mapping[str, bytes]) -> Path:
        """Make `files` the content of the folder."""
        for entry in os.scandir(self.folder):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else Path(entry.path).unlink()
        for name, content in files.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(content)
        return self.folder

    def names(self) -> set[str]:
        """Everything under the root."""
        return {os.path.join(at, name) for at, *found in os.walk(self.root) for group in found for name in group}  # noqa: PTH118


@cache
def place() -> Place:
    """The one place of this process."""
    return Place()


def shard_tensors(number: int) -> dict[str, torch.Tensor]:
    """The tensors of shard `number` of the tiny model."""
    generator = torch.Generator().manual_seed(number)
    if number == 0:
        return {"model.embed_tokens.weight": torch.randn(6, 4, generator=generator).bfloat16()}
    return {
        "model.layers.0.self_attn.q_proj.weight": torch.randn(4, 4, generator=generator).bfloat16(),
        "model.norm.weight": torch.randn(4, generator=generator).bfloat16(),
        "steps": torch.tensor([3]),
    }


@cache
def single_file() -> bytes:
    """The tiny model as one safetensors file."""
    return save(shard_tensors(0) | shard_tensors(1))


@cache
def sharded_files() -> dict[str, bytes]:
    """The tiny model as two shards and an index."""
    weight_map = {name: SHARDS[number] for number in (0, 1) for name in shard_tensors(number)}
    shards = {name: save(shard_tensors(number)) for number, name in enumerate(SHARDS)}
    return shards | {INDEX: json.dumps({"metadata": {}, "weight_map": weight_map}).encode()}


def write_model(folder: Path, weights: bytes) -> None:
    """The tiny model with these weights in `folder`."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
