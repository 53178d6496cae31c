"""`merge.dtype` below the type in which a base keeps some of its tensors is told; what the whole base has is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Family = dict[str, Path]


def widen(folder: Path, part: str) -> Path:
    tensors = load_file(folder / "model.safetensors")
    wide = {name: t.float() if part in name else t for name, t in tensors.items()}
    save_file(wide, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("dtype", "part", "told"),
    [
        ("bfloat16", "model.norm", "bfloat16 rounds what the base keeps in float32 beside bfloat16: 1 tensor, first "),
        ("float16", "layernorm", "float16 rounds what the base keeps in float32 beside bfloat16: 4 tensors, first "),
        ("float32", "model.norm", None),
        ("bfloat16", "none", None),
        ("float16", "", None),
        (None, "model.norm", None),
    ],
)
def test_tensors_that_are_kept_wide(
    dtype: str | None, part: str, told: str | None, copied: Callable[[str], Path], family: Family, tmp_path: Path
) -> None:
    base = widen(copied("base"), part)
    section = MergeConfig.model_validate({"dtype": dtype})
    config = Config(base=str(base), vectors={"b": VectorConfig(model=str(family["b"]))}, merge=section)

    lines: list[str] = []
    out = merge(config, tmp_path / "out", log=lambda line: lines.append(str(line)))
    notes = [str(note) for note in doctor(config).notes]
    for heard in (lines, notes):
        found = [line for line in heard if line.startswith("merge.dtype")]
        assert len(found) == (told is not None)
        if told is not None:
            assert found[0].startswith(f"merge.dtype: {told}")
            assert found[0].endswith("Leave `dtype` out, and each tensor keeps the base's type.")

    # Followed as written, each tensor keeps its type.
    stored, kept = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    wanted = None if dtype is None else getattr(torch, dtype)
    assert all(kept[name].dtype == (wanted or tensor.dtype) for name, tensor in stored.items())
