"""What passes through is told, and nothing is told of what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.alignment.align import describe_alignment
from aftermix.checkpoints.pool import examine_pool, open_pool
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Copy = Callable[[str], Path]
STEPS, FLAGS = "model.layers.0.steps", "model.layers.0.flags"


def counted(folder: Path, steps: int) -> Path:
    """Add two buffers that hold no real numbers."""
    file = folder / "model.safetensors"
    buffers = {STEPS: torch.tensor([steps]), FLAGS: torch.tensor([True, False])}
    save_file({**load_file(file), **buffers}, file, metadata={"format": "pt"})
    return folder


def test_buffers_pass_through_and_those_that_differ_are_told(copied: Copy, tmp_path: Path) -> None:
    base, expert = counted(copied("base"), 3), counted(copied("b"), 4)
    config = Config(base=str(base), vectors={"x": VectorConfig(model=str(expert))})
    said: list[str] = []
    made = load_file(merge(config, tmp_path / "made", log=said.append) / "model.safetensors")
    assert made[STEPS].tolist() == [3]
    told = [
        f"passed through from the base, for they hold no learned numbers: 2 tensors, first {FLAGS}, last {STEPS}",
        f"vector 'x' differs from the base in what passes through: 1 tensor, first {STEPS}",
    ]
    assert said == told
    assert json.loads((tmp_path / "made" / "lock.json").read_text())["alignment"] == told
    assert [fact for fact in doctor(config).facts if "passe" in fact] == told


def test_nothing_is_told_of_models_that_align(family: dict[str, Path]) -> None:
    vectors = {name: VectorConfig(model=str(family[name])) for name in ("a", "b")}
    pool = open_pool(Config(base=str(family["base"]), vectors=vectors))
    assert describe_alignment(pool.base, pool.experts) == []
    assert all(isinstance(expert, Checkpoint) for expert in pool.experts.values())


def test_a_base_that_cannot_be_opened_is_the_only_problem(family: dict[str, Path], tmp_path: Path) -> None:
    vectors = {
        "a": VectorConfig(model=str(family["a"]), prefix={"x.": "y."}),
        "b": VectorConfig(model=str(family["b"])),
    }
    found = examine_pool(Config(base=str(tmp_path / "nowhere"), vectors=vectors, merge=MergeConfig(vocabulary="base")))
    assert [problem.where for problem in found.problems] == [str(tmp_path / "nowhere")]
    assert found.pool is None


@pytest.mark.parametrize("prefix", [{}, {"a.": 3}, ["a."]])
def test_a_prefix_that_is_no_map_of_text_is_refused(prefix: object) -> None:
    from aftermix.config import parse_config

    values = {"base": "b", "vectors": {"x": {"model": "m", "prefix": prefix}}}
    with pytest.raises(AftermixError, match=r"f\.yaml: vectors\.x\.prefix"):
        parse_config(values, where="f.yaml", folder=Path())


def with_integers(folder: Path, **tensors: torch.Tensor) -> Path:
    file = folder / "model.safetensors"
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({**load_file(file), **named}, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model.layers.0.mlp.up_proj.qweight", torch.arange(192, dtype=torch.int32).reshape(4, 48)),
        ("model.layers.0.mlp.up_proj.weight_packed", torch.arange(192, dtype=torch.int64)),
        ("model.layers.0.mlp.up_proj.SCB", torch.arange(48, dtype=torch.int8)),
        ("model.layers.0.mlp.up_proj.weight.absmax", torch.arange(24, dtype=torch.uint8)),
        ("model.layers.0.mlp.up_proj.pruned", torch.arange(24) % 2 == 0),
    ],
)
def test_integers_that_were_learned_are_refused(name: str, values: torch.Tensor, copied: Copy, tmp_path: Path) -> None:
    base, same = with_integers(copied("base"), **{name: values}), with_integers(copied("b"), **{name: values})
    merge(Config(base=str(base), vectors={"b": VectorConfig(model=str(same))}), tmp_path / "same")

    expert = with_integers(copied("c"), **{name: values.flip(0)})
    (expert / "quantize_config.json").write_text("{}")
    config = Config(base=str(base), vectors={"c": VectorConfig(model=str(expert))})
    with pytest.raises(AftermixError) as raised:
        merge(config, tmp_path / "out")
    kind = str(values.dtype).removeprefix("torch.")
    assert str(raised.value) == (
        f"{expert}: vector 'c' holds other integers ({kind}) than the base: 1 tensor, first {name}; "
        "quantize_config.json beside it says that weights are packed. Integers are not averaged: name the models "
        "as they were before; in a merge, `exclude` keeps the base's."
    )
    assert not (tmp_path / "out").exists()

    excluded = config.model_copy(update={"merge": MergeConfig(exclude=(name,))})
    made = load_file(merge(excluded, tmp_path / "excluded") / "model.safetensors")
    assert made[name].equal(values)


def test_learned_integers_of_models_without_a_base_are_refused(copied: Copy) -> None:
    b = with_integers(copied("b"), packed=torch.arange(8))
    c = with_integers(copied("c"), packed=torch.arange(8, 16))
    vectors = {"b": VectorConfig(model=str(b)), "c": VectorConfig(model=str(c))}
    with pytest.raises(AftermixError, match=r"vector 'c' holds other integers \(int64\) than the base: 1 tensor"):
        open_pool(Config(vectors=vectors, merge=MergeConfig(method="linear")))


@pytest.mark.parametrize(
    "name", ["position_ids", "attn.relative_position_index", "norm.num_batches_tracked", "embeddings.token_type_ids"]
)
def test_integers_that_a_model_computes_may_differ_and_be_absent(
    name: str, copied: Copy, family: dict[str, Path], tmp_path: Path
) -> None:
    base = with_integers(copied("base"), **{name: torch.arange(4)})
    expert = with_integers(copied("b"), **{name: torch.arange(4) + 1})
    vectors = {"b": VectorConfig(model=str(expert)), "c": VectorConfig(model=str(family["c"]))}
    made = load_file(merge(Config(base=str(base), vectors=vectors), tmp_path / "out") / "model.safetensors")
    assert made[name].equal(torch.arange(4))
