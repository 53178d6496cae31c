"""Blocks of one model, stacked: tensors, configuration, what transformers makes of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from aftermix.checkpoints.formats.stacked.model import StackedModel, stack_blocks
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.config import parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge
from aftermix.mergekit.reading import load_recipe
from aftermix.mergekit.writing import translate_to_mergekit

Family = Mapping[str, Path]
RANGES = [[0, 3], [1, 4]]
TAKEN = (0, 1, 2, 1, 2, 3)


def recipe(model: Path, *ranges: list[int], **more: Any) -> dict[str, Any]:
    slices = [{"sources": [{"model": str(model), "layer_range": list(each)}]} for each in ranges]
    return {"merge_method": "passthrough", "slices": slices, "dtype": "float32"} | more


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def stacked(deep_family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a recipe of mergekit."""
    folder = tmp_path_factory.mktemp("stacked")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(deep_family["a"], *RANGES)))
    return merge(load_recipe(folder / "recipe.yaml"), folder / "out")


def test_every_block_is_that_of_the_model(stacked: Path, deep_family: Family) -> None:
    found, own = read_weights(stacked), read_weights(deep_family["a"])
    blocks = {name for name in own if ".layers." in name}
    expected = {name: own[name] for name in own.keys() - blocks}
    for number, block in enumerate(TAKEN):
        for name in blocks:
            if f".layers.{block}." in name:
                expected[name.replace(f".layers.{block}.", f".layers.{number}.")] = own[name]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_transformers_runs_the_blocks_one_after_the_other(stacked: Path, deep_family: Family) -> None:
    loaded, report = AutoModelForCausalLM.from_pretrained(stacked, output_loading_info=True)
    assert not any(report.values())
    assert loaded.config.num_hidden_layers == len(TAKEN)
    twin = AutoModelForCausalLM.from_pretrained(deep_family["a"])
    blocks = twin.model.layers
    for number, block in enumerate(blocks):
        block.self_attn.layer_idx = number
    twin.model.layers = torch.nn.ModuleList(blocks[block] for block in TAKEN)
    twin.config.num_hidden_layers = len(TAKEN)
    tokens = torch.tensor([[5, 9, 200, 31, 7]])
    with torch.no_grad():
        assert torch.allclose(loaded(tokens).logits, twin(tokens, use_cache=False).logits, atol=1e-6)


def test_its_own_recipe_gives_it_again(stacked: Path, tmp_path: Path) -> None:
    again = merge(load_recipe(stacked / "aftermix.yaml"), tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (stacked / name).read_bytes()


def test_a_mean_of_two_stacks(deep_family: Family, tmp_path: Path) -> None:
    vectors = {name: {"model": str(deep_family[name]), "layers": [[2, 4]], "weight": 0.5} for name in ("a", "b")}
    config = parse_config({"vectors": vectors, "merge": {"method": "linear"}}, where="file", folder=tmp_path)
    found = read_weights(merge(config, tmp_path / "out"))
    a, b = (read_weights(deep_family[name]) for name in ("a", "b"))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.allclose(found[name.format(0)], (a[name.format(2)] + b[name.format(2)]) / 2, atol=1e-7)
    assert name.format(2) not in found


@pytest.fixture
def source(deep_family: Family) -> Checkpoint:
    return open_checkpoint(deep_family["b"])


def build(source: Checkpoint, ranges: list[tuple[int, int]], **config: Any) -> StackedModel:
    return stack_blocks(replace(source, config=source.config | config), ranges, where="layers")


def test_what_is_listed_by_block_goes_with_it(source: Checkpoint) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    made = build(source, [(1, 3), (3, 4), (0, 1)], layer_types=kinds, mlp_only_layers=[0, 3], sliding_window_pattern=2)
    assert made.config["layer_types"] == [kinds[1], kinds[2], kinds[3], kinds[0]]
    assert made.config["mlp_only_layers"] == [2, 3]
    assert made.config["num_hidden_layers"] == 4
    assert made.describe_storage()[0] == "is a stack of 4 blocks of 4"


@pytest.mark.parametrize(
    ("ranges", "config", "told"),
    [
        ([(0, 5)], {}, r"layers: expected 0 <= start < end <= 4, the blocks of '.*', found \[0, 5\]"),
        ([(2, 2)], {}, r"found \[2, 2\]\. Correct the range; its end is not taken\."),
        ([(0, 4)], {"num_hidden_layers": 6}, r"expected blocks by number in '.*', found 4 of 6"),
        ([(0, 2)], {"first_k_dense_replace": 1}, r"follows from its number \(`first_k_dense_replace: 1`\)"),
        ([(0, 2)], {"sliding_window_pattern": 2}, r"follows from its number \(`sliding_window_pattern: 2`\)"),
    ],
)
def test_what_cannot_be_stacked(
    source: Checkpoint, ranges: list[tuple[int, int]], config: dict[str, Any], told: str
) -> None:
    with pytest.raises(AftermixError, match=told):
        build(source, ranges, **config)


def test_a_vector_has_the_blocks_of_its_base(deep_family: Family, tmp_path: Path) -> None:
    vectors = {"a": {"model": str(deep_family["a"]), "layers": [[0, 2]]}}
    config = parse_config({"base": str(deep_family["base"]), "vectors": vectors}, where="file", folder=tmp_path)
    with pytest.raises(AftermixError, match=r"vectors\.a\.layers: stacks blocks, and a vector has those of its base"):
        merge(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stack_is_merged_and_not_measured_or_exported(deep_family: Family, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"vectors": {"a": {"model": str(deep_family["a"]), "layers": [[0, 2]]}}}
    with pytest.raises(AftermixError, match=r"vectors\.a\.layers is for a merge: merge first, then measure the result"):
        parse_config(sections | {"evaluate": {"tasks": ["x"]}}, where="file", folder=tmp_path)
    config = parse_config(sections | {"merge": {"method": "linear"}}, where="file", folder=tmp_path)
    with pytest.raises(AftermixError, match=r"vectors\.a\.layers: is written by hand in mergekit"):
        translate_to_mergekit(config)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": {"scale": 0.5}}, "parameters: scale tensors"),
        ({"base_model": "other"}, "base_model: 'other' is not the model of the slices"),
        ({"tokenizer_source": "other"}, "tokenizer_source: 'other' is not the model of the slices"),
        ({"slices": [{"sources": [{"model": "m", "layer_range": [0]}]}]}, r"expected \[start, end\], found \[0\]"),
        ({"slices": [{"sources": [{"model": n, "layer_range": [0, 2]}]} for n in "ab"]}, "slices: are of 2 models"),
        ({"slices": [{"sources": [{"model": "m"}, {"model": "m"}]}]}, r"slices\[0\]: expected one source"),
        ({"slices": None, "models": [{"model": "m"}, {"model": "n"}]}, "passthrough is of one model, there are 2"),
        ({"slices": []}, "slices: expected a list of slices"),
    ],
)
def test_recipes_that_do_not_fit(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe(Path("m"), [0, 2]) | change))
    with pytest.raises(AftermixError, match=told):
        load_recipe(file)


def test_one_model_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"merge_method": "passthrough", "models": [{"model": "org/m"}]}))
    config = load_recipe(file)
    assert {name: (vector.model, vector.layers) for name, vector in config.vectors.items()} == {"m": ("org/m", None)}
    assert config.base is None
    assert config.merge.method == "linear"
