"""Checkpoints in float64 merge in float64: arithmetic and result, whatever the method."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.methods import METHODS, bind
from aftermix.merging.prepared import prepare_vectors
from aftermix.merging.recipe import MergeRecipe

Family = Mapping[str, Path]
WEIGHTS = {"a": 0.3, "b": 0.45}


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


@pytest.fixture(scope="module")
def doubles(untied_family: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The float32 family in float64, each value moved by less than float32 holds."""
    root = tmp_path_factory.mktemp("doubles")
    for number, name in enumerate(("base", "a", "b")):
        shutil.copytree(untied_family[name], root / name)
        draw = torch.Generator().manual_seed(number)
        for file in (root / name).glob("*.safetensors"):
            tensors = {n: t.double() for n, t in load_file(file).items()}
            moved = {n: t + t * 1e-9 * torch.rand(t.shape, generator=draw) for n, t in tensors.items()}
            save_file(moved, file, {"format": "pt"})
    return {name: root / name for name in ("base", "a", "b")}


def build_config(family: Family, statistics: Path, method: str, **options: object) -> Config:
    bound = bind(MergeConfig(method=method))
    if bound.is_exclusive:
        options = {"density": 0.25, **options}
    if bound.needs_statistics:
        options["statistics"] = str(statistics)
    vectors = {name: VectorConfig(model=str(family[name]), weight=weight) for name, weight in WEIGHTS.items()}
    merge_config = MergeConfig.model_validate({"method": method, **options})
    return Config(base=str(family["base"]), vectors=vectors, merge=merge_config)


def compute_exact(doubles: Family, method: str) -> dict[str, torch.Tensor]:
    """The formulas of some methods, in float64 from the files."""
    base, a, b = (read(doubles[name]) for name in ("base", "a", "b"))
    exact = {}
    for name, start in base.items():
        deltas = {"a": a[name] - start, "b": b[name] - start}
        if method == "ties":
            for vector, delta in deltas.items():
                kept = delta.abs().flatten().topk(max(1, int(0.2 * delta.numel()))).indices
                mask = torch.zeros(delta.numel(), dtype=torch.float64)
                mask[kept] = 1.0
                deltas[vector] = delta * mask.view(delta.shape)
            moved = {vector: WEIGHTS[vector] * delta for vector, delta in deltas.items()}
            sign = torch.where(sum(moved.values()) >= 0, 1.0, -1.0)  # type: ignore[arg-type]
            agreeing = {v: torch.where(delta.sign() == sign, delta, 0.0) for v, delta in moved.items()}
            mass = sum(WEIGHTS[v] * (delta != 0).double() for v, delta in agreeing.items())
            exact[name] = start + sum(agreeing.values()) / torch.where(mass == 0, 1.0, mass)  # type: ignore[arg-type]
        else:
            divisor = sum(WEIGHTS.values()) if method == "linear" else 1.0
            exact[name] = start + sum(WEIGHTS[v] * delta for v, delta in deltas.items()) / divisor
    return exact


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties"])
def test_the_result_is_the_formula_in_float64(
    method: str, doubles: Family, statistics: dict[str, Path], tmp_path: Path
) -> None:
    merge(build_config(doubles, Path(), method), tmp_path / "out")
    found, exact = read(tmp_path / "out"), compute_exact(doubles, method)
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    for name, expected in exact.items():
        torch.testing.assert_close(found[name], expected, atol=1e-15, rtol=1e-14)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_takes_float64(
    method: str, doubles: Family, untied_family: Family, statistics: dict[str, Path], tmp_path: Path
) -> None:
    """Within float32's rounding of the merge in float32, beyond it finer, and in a search as on disk."""
    measured = statistics[str(untied_family["base"])]
    wide, narrow = (build_config(family, measured, method) for family in (doubles, untied_family))
    merge(wide, tmp_path / "wide")
    merge(narrow, tmp_path / "narrow")
    found, close = read(tmp_path / "wide"), read(tmp_path / "narrow")
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    apart = sum(int((~torch.isclose(found[n].float(), close[n], atol=1e-5, rtol=1e-4)).sum()) for n in found)
    assert apart <= 20  # an entry at a threshold may be chosen otherwise
    assert any(not torch.equal(found[n].float().double(), found[n]) for n in found)

    merger = open_merger(wide, open_pool(wide), MergeRecipe.from_config(wide.merge))
    prepared = prepare_vectors(merger)
    assert all(torch.equal(tensor, found[name]) for name, tensor in prepared.stream_merged(WEIGHTS))


def test_no_weight_is_the_base_bit_for_bit(doubles: Family, tmp_path: Path) -> None:
    config = build_config(doubles, Path(), "task_arithmetic")
    vectors = {name: vector.model_copy(update={"weight": 0.0}) for name, vector in config.vectors.items()}
    merge(config.model_copy(update={"vectors": vectors}), tmp_path / "out")
    found, base = read(tmp_path / "out"), read(doubles["base"])
    assert all(torch.equal(found[name], base[name]) for name in base)
