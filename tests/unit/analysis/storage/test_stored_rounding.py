"""What rounding did to a stored expert, told from its files alone, held against changes that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from aftermix.analysis.geometry_tables import print_geometry
from aftermix.analysis.storage.rounding import StoredRounding, survey_rounding
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, VectorConfig
from aftermix.jobs.analysis.inspect import inspect

Draw = Callable[[torch.Size, float], torch.Tensor]


def draw_gaussian(shape: torch.Size, scale: float) -> torch.Tensor:
    return scale * torch.randn(shape)


def draw_laplace(shape: torch.Size, scale: float) -> torch.Tensor:
    sizes = torch.distributions.Exponential(1.0).sample(shape)
    return scale / 2**0.5 * sizes * torch.randn(shape).sign()


def draw_steps(shape: torch.Size, scale: float) -> torch.Tensor:
    """A few steps of one size, as Adam takes them."""
    return scale / 3 * (torch.randint(0, 2, (9, *shape)) * 2 - 1).sum(0)


def write_pair(
    folder: Path,
    draw: Draw,
    scale: float,
    *,
    dtype: torch.dtype = torch.bfloat16,
    base_dtype: torch.dtype | None = None,
) -> tuple[StoredRounding | None, float, float]:
    """A base and an expert of two matrices; what is told, and the norm and the entries that really were lost."""
    torch.manual_seed(0)
    base = {f"model.layers.{n}.mlp.up_proj.weight": 0.05 * torch.randn(120, 100) for n in range(2)}
    base = {name: tensor.to(base_dtype or dtype) for name, tensor in base.items()}
    moved = {name: tensor.float() + draw(tensor.shape, scale) for name, tensor in base.items()}
    stored = {name: tensor.to(dtype) for name, tensor in moved.items()}
    for place, tensors in (("base", base), ("expert", stored)):
        (folder / place).mkdir(parents=True)
        save_file(tensors, folder / place / "model.safetensors", {"format": "pt"})
        (folder / place / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}))

    error = torch.cat([(stored[name].float() - moved[name]).flatten() for name in base])
    vector = torch.cat([(moved[name] - base[name].float()).flatten() for name in base])
    still = torch.cat([(stored[name] == base[name].to(dtype)).flatten() for name in base])
    pool = open_pool(Config(base=str(folder / "base"), vectors={"v": VectorConfig(model=str(folder / "expert"))}))
    return survey_rounding(pool).get("v"), float(error.norm() / vector.norm()), float(still.double().mean())


@pytest.mark.parametrize("draw", [draw_gaussian, draw_laplace, draw_steps])
@pytest.mark.parametrize("scale", [3e-5, 1e-4, 4e-4, 2e-3])
def test_the_norm_lost_is_estimated(draw: Draw, scale: float, tmp_path: Path) -> None:
    found, lost, unmoved = write_pair(tmp_path, draw, scale)
    assert found is not None
    assert found.dtype == "bfloat16"
    assert found.entries == 24_000
    assert found.unmoved == pytest.approx(unmoved, abs=1e-12)
    assert found.lost == pytest.approx(lost, rel=0.15)
    assert not found.is_kept


def test_other_types(tmp_path: Path) -> None:
    half, lost, _ = write_pair(tmp_path / "half", draw_gaussian, 2e-5, dtype=torch.float16)
    assert half is not None
    assert (half.dtype, half.lost) == ("float16", pytest.approx(lost, rel=0.15))

    # A base in float32 lies on no grid: the error is that of storing the expert, whatever has moved.
    wide, lost, unmoved = write_pair(tmp_path / "wide", draw_gaussian, 4e-4, base_dtype=torch.float32)
    assert wide is not None
    assert (wide.unmoved, wide.lost) == (pytest.approx(unmoved, abs=1e-12), pytest.approx(lost, rel=0.15))

    none, lost, _ = write_pair(tmp_path / "none", draw_gaussian, 4e-4, dtype=torch.float32)
    assert none is None
    assert lost < 1e-4


def test_counts_by_hand(tmp_path: Path) -> None:
    """Four entries: at the base's value, one unit up, one unit down across a power of two, two units up."""
    base = torch.tensor([[1.0, 1.0, 1.0, -0.75]])
    expert = torch.tensor([[1.0, 1.0 + 2**-7, 1.0 - 2**-8, -0.75 - 2**-7]])
    for place, tensor in (("base", base), ("expert", expert)):
        (tmp_path / place).mkdir()
        tensors = {"w.weight": tensor.to(torch.bfloat16), "still.weight": torch.ones(3, 3, dtype=torch.bfloat16)}
        save_file(tensors, tmp_path / place / "model.safetensors", {"format": "pt"})
        (tmp_path / place / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    pool = open_pool(Config(base=str(tmp_path / "base"), vectors={"v": VectorConfig(model=str(tmp_path / "expert"))}))
    found = survey_rounding(pool)["v"]
    assert (found.entries, found.unmoved, found.one_unit) == (4, 0.25, 0.5)  # a tensor that did not move is left out
    assert np.isfinite(found.lost)
    assert 0 < found.lost < 1

    pool = open_pool(Config(base=str(tmp_path / "base"), vectors={"v": VectorConfig(model=str(tmp_path / "base"))}))
    assert survey_rounding(pool) == {}


def test_inspect_tells_it_in_a_table_and_in_its_file(tmp_path: Path) -> None:
    found, _, _ = write_pair(tmp_path, draw_gaussian, 1e-4)
    assert found is not None
    target, base, file = str(tmp_path / "expert"), str(tmp_path / "base"), tmp_path / "numbers.json"
    geometry, name = inspect(target, base=base, json=file)
    told = json.loads(file.read_text())["rounding"]["expert"]
    assert (told["unmoved"], told["one_unit"], told["lost"]) == (found.unmoved, found.one_unit, found.lost)
    console = Console(width=160, record=True, file=StringIO())
    print_geometry(geometry, base=name, console=console)
    text = console.export_text()
    assert "Rounding of the stored experts, in the tensors that moved" in text
    assert f"{100 * found.unmoved:.1f} %" in text
