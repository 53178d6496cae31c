"""`operand_dtype`: models and differences are rounded before they are merged, as a recipe of mergekit computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import aftermix
from aftermix.mergekit.reading import read_mergekit

Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]


def stored(folder: Path) -> Tensors:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def rounded(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype).float() for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trimming_sees_rounded_differences(dtype: torch.dtype, untied_family: Family) -> None:
    name = str(dtype).removeprefix("torch.")
    pool = aftermix.Pool(untied_family["base"], {"a": untied_family["a"]})
    found = dict(pool.merge({"a": 1.0}, method="ties", density=0.5, operand_dtype=name).tensors())
    base, expert = (rounded(stored(untied_family[model]), dtype) for model in ("base", "a"))
    for tensor, start in base.items():
        delta = (expert[tensor] - start).to(dtype).float().flatten()
        order = delta.abs().argsort(descending=True, stable=True)
        delta[order[len(delta) // 2 :]] = 0
        assert found[tensor].equal(start + delta.view_as(start)), tensor


def test_models_are_rounded_where_they_are_merged_themselves(untied_family: Family) -> None:
    pool = aftermix.Pool(untied_family["base"], {name: untied_family[name] for name in "ab"})
    found = dict(pool.merge({"a": 0.5, "b": 0.5}, method="linear", operand_dtype="bfloat16").tensors())
    first, second = (rounded(stored(untied_family[name]), torch.bfloat16) for name in "ab")
    assert all(tensor.equal((first[name] + second[name]) / 2) for name, tensor in found.items())


def test_a_recipes_dtype_is_that_of_its_operands_and_is_written_back() -> None:
    models = [{"model": "org/a", "parameters": {"weight": 1}}]
    values = {"merge_method": "ties", "base_model": "org/base", "models": models}
    both = read_mergekit(values | {"dtype": "bfloat16", "out_dtype": "float32"}, where="r").merge
    assert (both.operand_dtype, both.dtype) == ("bfloat16", "float32")
    assert read_mergekit(values | {"dtype": "float32"}, where="r").merge.operand_dtype is None
    one = read_mergekit(values | {"dtype": "torch.float16"}, where="r").merge
    assert (one.operand_dtype, one.dtype) == ("float16", "float16")
