"""Vectors that look like those of another base are told by every job that merges, and stop none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.alignment.recorded_base import digest_tensors
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.kinship import list_kinship_remarks, measure_sample
from aftermix.jobs.plan.command import plan
from conftest import Family, run_cli

pytestmark = pytest.mark.usefixtures("shown")


def open_family(base: Path, **experts: Path) -> ModelPool:
    return open_pool(describe_family(base, **experts))


def describe_family(base: Path, **experts: Path) -> Config:
    vectors = {name: VectorConfig(model=str(folder), weight=0.5) for name, folder in experts.items()}
    return Config(base=str(base), vectors=vectors, merge=MergeConfig(method="task_arithmetic"))


def moved(family: Family, name: str, folder: Path, *, by: float, seed: int = 99) -> Path:
    """The expert `name` as if it had been trained from a base so far from the family's."""
    shutil.copytree(family[name], folder)
    for file in folder.glob("*.safetensors"):
        draw = torch.Generator().manual_seed(seed)
        tensors = load_file(file)
        lengths = {n: t.float().square().mean().sqrt() for n, t in sorted(tensors.items())}
        way = {n: torch.randn(tensors[n].shape, generator=draw) * by * length for n, length in lengths.items()}
        save_file({n: (t.float() + way[n]).to(t.dtype) for n, t in tensors.items()}, file, {"format": "pt"})
    return folder


@pytest.fixture
def strangers(family: Family, tmp_path: Path) -> dict[str, Path]:
    """Experts b and c, both of one other base."""
    return {name: moved(family, name, tmp_path / name, by=1.5) for name in ("b", "c")}


def test_experts_of_this_base_are_not_remarked_on(family: Family) -> None:
    assert list_kinship_remarks(open_family(family["base"], a=family["a"], b=family["b"])) == []


def test_both_signs_are_told(family: Family, strangers: dict[str, Path]) -> None:
    first, second, third = list_kinship_remarks(open_family(family["base"], a=family["a"], **strangers))
    sample = "of a sample of each tensor, up to 16,384 elements"
    assert str(first).startswith(f"{strangers['b']}: vector 'b' is 1.")
    assert str(first).endswith(
        f" times as long as the base ({sample}). Check that it was trained from {family['base']}."
    )
    assert second.where == str(strangers["c"])
    assert str(third).startswith("vectors: 'b', 'c' point the same way (cosine 0.")
    assert "checkpoints of one training look like this, too" in third.remedy


def test_a_small_way_between_the_bases_is_told_by_the_angle_alone(family: Family, tmp_path: Path) -> None:
    """Four experts are one line, and one of this base is not in it."""
    strangers = {f"v{n}": moved(family, "b" if n % 2 else "c", tmp_path / f"v{n}", by=0.7) for n in range(4)}
    (remark,) = list_kinship_remarks(open_family(family["base"], a=family["a"], **strangers))
    assert remark.found.startswith("'v0', 'v1', 'v2', 'v3' point the same way (cosine 0.")
    assert "or more" in remark.found


def test_what_a_record_confirms_is_not_looked_at(family: Family, strangers: dict[str, Path]) -> None:
    record = {"base": str(family["base"]), "base_tensors": digest_tensors(open_checkpoint(family["base"]))}
    for folder in strangers.values():
        (folder / "train.json").write_text(json.dumps(record))
    assert list_kinship_remarks(open_family(family["base"], **strangers)) == []
    (strangers["b"] / "train.json").unlink()
    assert [remark.where for remark in list_kinship_remarks(open_family(family["base"], **strangers))] == [
        str(strangers["b"]),
        "vectors",
    ]


def test_small_tensors_are_measured_exactly(family: Family, untied_family: Family) -> None:
    for members in (family, untied_family):
        pool = open_family(members["base"], a=members["a"], b=members["b"])
        geometry = measure_sample(pool)
        base, *experts = (
            torch.cat([pool_model.read_block(i.name, (0, i.elements)).double() for i in pool.layout])
            for pool_model in (pool.base, *pool.experts.values())
        )
        vectors = torch.stack([expert - base for expert in experts])
        assert geometry.base == pytest.approx(float(base.norm()), rel=1e-6)
        np.testing.assert_allclose(geometry.gram_VV, (vectors @ vectors.T).numpy(), rtol=1e-4, atol=1e-6)


def test_jobs_tell_it(
    family: Family, strangers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = describe_family(family["base"], **strangers)
    assert sum("point the same way" in note.found for note in doctor(config).notes) == 1
    assert len(plan(config).remarks) == 3
    file = tmp_path / "merge.yaml"
    vectors = {name: {"model": str(folder), "weight": 0.5} for name, folder in strangers.items()}
    file.write_text(json.dumps({"base": str(family["base"]), "vectors": vectors, "merge": {"method": "linear"}}))
    for arguments in (("plan", file), ("merge", file, "-o", tmp_path / "out"), ("doctor", file)):
        assert run_cli(*arguments) == 0
        assert capsys.readouterr().out.count("'b', 'c' point the same way") == 1


@pytest.mark.parametrize("job", ["search", "mixture"])
def test_a_search_and_a_mixture_tell_it_first(
    job: str, family: Family, strangers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before tasks are built, which is where this file is refused."""
    vectors = {name: {"model": str(folder)} for name, folder in strangers.items()}
    content = {"base": str(family["base"]), "vectors": vectors, "evaluate": {"tasks": ["no-such-task"]}}
    file = tmp_path / "search.yaml"
    mixture = {"mixture": {"capabilities": {"all": ["no-such-task"]}}} if job == "mixture" else {}
    file.write_text(json.dumps(content | mixture))
    assert run_cli(job, file, "-o", tmp_path / "run") == 2
    assert capsys.readouterr().err.count("'b', 'c' point the same way") == 1
