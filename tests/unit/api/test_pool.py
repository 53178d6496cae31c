"""A pool merges as the command line does, tensor for tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import aftermix
from aftermix.config import parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge

Family = Mapping[str, Path]


@pytest.fixture
def pool(family: Family) -> aftermix.Pool:
    return aftermix.Pool(family["base"], {"a": family["a"], "b": {"model": family["b"], "range": (0, 0.5)}})


def test_a_merge_is_that_of_the_file(pool: aftermix.Pool, family: Family, tmp_path: Path) -> None:
    values = {
        "base": str(family["base"]),
        "vectors": {
            "a": {"model": str(family["a"]), "weight": 0.4},
            "b": {"model": str(family["b"]), "weight": 0.7},
        },
        "merge": {"method": "ties", "density": 0.3},
    }
    by_file = merge(parse_config(values, where="file", folder=tmp_path), tmp_path / "file")
    expected = load_file(by_file / "model.safetensors")

    merged = pool.merge({"a": 0.4, "b": 0.7}, method="ties", density=0.3)
    assert repr(merged) == "Merged(ties: a=0.4, b=0.7)"
    saved = load_file(merged.save(tmp_path / "saved") / "model.safetensors")
    assert saved.keys() == expected.keys()
    for found in (saved, dict(merged.tensors())):
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_model_computes_what_the_folder_does(pool: aftermix.Pool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    merged = pool.merge({"a": 0.4})
    tokens = torch.tensor([[5, 6, 7]])
    loaded = AutoModelForCausalLM.from_pretrained(merged.save(tmp_path / "saved"), dtype=torch.float32)
    with torch.inference_mode():
        ours, theirs = merged.model()(tokens).logits, loaded(tokens).logits
    assert torch.equal(ours, theirs)


def test_options_of_another_method_do_not_carry_over(family: Family) -> None:
    pool = aftermix.Pool(family["base"], {"a": family["a"]}, merge={"method": "ties", "density": 0.4, "seed": 3})
    assert pool.merge({"a": 0.4}).config.merge.options == {"density": 0.4}
    changed = pool.merge({"a": 0.4}, method="task_arithmetic").config.merge
    assert (changed.method, changed.options, changed.seed) == ("task_arithmetic", {}, 3)


def test_problems_are_those_of_doctor(family: Family, tmp_path: Path) -> None:
    assert aftermix.Pool(family["base"], {"a": family["a"]}).problems() == []
    (problem,) = aftermix.Pool(family["base"], {"a": tmp_path / "nowhere"}).problems()
    assert "nowhere" in str(problem)
    assert problem.remedy


def test_bad_options_are_refused_before_anything_is_read(pool: aftermix.Pool) -> None:
    with pytest.raises(AftermixError, match="densty"):
        pool.merge({"a": 0.4}, method="ties", densty=0.3)
    with pytest.raises(AftermixError, match="tees"):
        pool.merge({"a": 0.4}, method="tees")
