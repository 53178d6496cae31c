"""Recipes written for mergekit: nothing lost on the way back, and what it cannot express refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from aftermix.checkpoints.formats.vector_file import FACTS
from aftermix.cli import cli
from aftermix.config import Config, parse_config
from aftermix.errors import ConfigError, ManyProblemsError
from aftermix.jobs.export.command import export_mergekit
from aftermix.jobs.merge.command import merge
from aftermix.mergekit.reading import load_recipe, read_mergekit
from aftermix.mergekit.sources import SHARED
from aftermix.mergekit.weightless import OPTIONS
from aftermix.mergekit.writing import translate_to_mergekit
from aftermix.yaml_file import parse_yaml

Family = Mapping[str, Path]
FOLDER = Path.cwd()


def read(text: str) -> Config:
    return read_mergekit(parse_yaml(text, where="r.yaml"), where="r.yaml")


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    """Configurations as a recipe reads: every one that mergekit can express, up to names and notes."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "d-7b"]), min_size=1, max_size=4, unique=True))
    weight = st.floats(-2, 2).map(lambda value: round(value, 3))
    density = st.sampled_from([0.1, 0.29, 0.5, 1.0])
    method = draw(st.sampled_from(sorted(SHARED.keys() - OPTIONS.keys())))
    own = draw(st.lists(density, min_size=len(names), max_size=len(names)))
    differ = len(set(own)) > 1 and method not in ("linear", "task_arithmetic")
    options: dict[str, Any] = {} if differ or method in ("linear", "task_arithmetic") else {"density": own[0]}
    normalize = draw(st.booleans())
    if method in ("dare_linear", "dare_ties"):
        options["rescale"] = draw(st.sampled_from(["l1", "none"]))
    if method in ("ties", "dare_ties"):
        options["normalize"] = normalize
    merge: dict[str, Any] = {"compat": "mergekit", "method": method} | options
    if method == "task_arithmetic" and normalize:
        merge = {"compat": "mergekit", "intra": "all", "inter": "mean"}
    if method == "dare_linear" and normalize:
        merge = {"compat": "mergekit", "intra": {"rule": "random"} | options, "inter": "mean"}
    if method != "linear":
        merge["lambda"] = draw(st.sampled_from([1.0, 0.5]))
        exclude = draw(st.lists(st.sampled_from(["embed_tokens", "lm_head"]), unique=True, max_size=2))
        merge |= {"exclude": exclude} if exclude else {}
    merge["dtype"] = draw(st.sampled_from([None, "bfloat16", "float16", "float32"]))
    # A weight of 0 says nothing of what it is 0 for.
    anchors = st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=2, max_size=3, unique=True)
    rules = st.tuples(st.sampled_from(["mlp", "self_attn"]), anchors, st.sampled_from([0.25, -0.5]))
    placed = rules.map(lambda drawn: [{"match": drawn[0], "value": drawn[1]}, {"value": drawn[2]}])
    nonzero = weight.filter(bool) if merge.get("exclude") else weight.filter(bool) | placed
    vectors = {
        name: {"model": f"org/{name}", "weight": draw(nonzero)} | ({"density": own[place]} if differ else {})
        for place, name in enumerate(sorted(names))
    }
    base = {} if method == "linear" and draw(st.booleans()) else {"base": "org/base"}
    return parse_config({"vectors": vectors, "merge": merge} | base, where="test", folder=FOLDER)


@given(configurations())
def test_what_is_written_reads_back(config: Config) -> None:
    translation = translate_to_mergekit(config)
    assert read_mergekit(parse_yaml(translation.format_file(), where="r.yaml"), where="r.yaml") == config


@given(configurations())
def test_writing_again_changes_nothing(config: Config) -> None:
    once = translate_to_mergekit(config).format_file()
    assert translate_to_mergekit(read(once)).format_file() == once


def ours(merge_values: dict[str, Any], **others: Any) -> Config:
    vectors = {"a": {"model": "org/a", "weight": 0.5}, "b": {"model": "org/b", "weight": -0.5}}
    content: dict[str, Any] = {"base": "org/base", "vectors": vectors, "merge": merge_values}
    return parse_config(content | others, where="test", folder=FOLDER)


def test_our_defaults_are_written_out() -> None:
    assert translate_to_mergekit(ours({"method": "ties", "normalize": False}), dtype="bfloat16").recipe == {
        "merge_method": "ties",
        "base_model": "org/base",
        "models": [
            {"model": "org/a", "parameters": {"weight": 0.5, "density": 0.2}},
            {"model": "org/b", "parameters": {"weight": -0.5, "density": 0.2}},
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }


@pytest.mark.parametrize(
    ("merge_values", "expected"),
    [
        (
            {"method": "dare_linear", "density": 0.5},
            "merge.rescale: mergekit rescales to the L1 norm, not by the density. "
            "Set `rescale: l1` or `rescale: none`.",
        ),
        ({"method": "ties", "scope": "model", "normalize": False}, "merge.scope: mergekit trims tensor by tensor. "
            "Set `scope: tensor`."),
        (
            {"intra": "magnitude", "inter": "sum"},
            "merge: magnitude+sum has no counterpart in mergekit. "
            "There is one for: dare_linear, dare_ties, karcher, model_stock, slerp, task_arithmetic, ties.",
        ),
        (
            {"exclude": ["model.layers.0.*"]},
            "merge.exclude: 'model.layers.0.*' is a pattern; mergekit's filters are parts of names. "
            "Name parts of names, or have the base at hand.",
        ),
        (
            {"method": "linear", "exclude": ["embed_tokens"]},
            "merge.exclude: mergekit's linear has no tensors that keep the base's values. Drop it.",
        ),
    ],
)  # fmt: skip
def test_what_mergekit_cannot_express_is_refused(merge_values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ManyProblemsError) as caught:
        translate_to_mergekit(ours(merge_values))
    assert [str(problem) for problem in caught.value.problems] == [expected]


def test_patterns_become_names_where_the_base_is_at_hand() -> None:
    tensors = ["lm_head.weight", "model.layers.0.mlp", "model.layers.0.mlp_gate", "model.layers.1.mlp"]
    config = ours({"exclude": ["lm_head", "*.0.mlp*"]})
    zeros = [{"filter": part, "value": 0.0} for part in ("lm_head", "model.layers.0.mlp", "model.layers.0.mlp_gate")]
    models = translate_to_mergekit(config, tensors=tensors).recipe["models"]
    assert models[0]["parameters"]["weight"] == [*zeros, {"value": 0.5}]
    with pytest.raises(ManyProblemsError) as caught:
        translate_to_mergekit(ours({"exclude": ["re:0.mlp$"]}), tensors=tensors)
    expected = "a filter for 'model.layers.0.mlp' would also catch 'model.layers.0.mlp_gate'"
    assert caught.value.problems[0].found == expected


def test_what_changes_no_tensor_is_a_note() -> None:
    vectors = {
        "it": {"model": "org/chat", "role": "instruction", "range": [0.3, 1]},
        "ja": {"model": "org/ja"},
    }
    config = ours({"method": "dare_linear", "density": 0.5, "rescale": "l1", "seed": 7}, vectors=vectors)
    notes = "\n".join(translate_to_mergekit(config).notes)
    for part in ("called it, ja", "in distribution only", "seed 7", "org/chat. Copy them over", "search ranges of it"):
        assert part in notes
    assert all(
        line.startswith("#")
        for line in translate_to_mergekit(config).format_file().splitlines()[: notes.count("\n") + 1]
    )


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_merge_export_and_merge_again_give_the_same_bits(family: Family, tmp_path: Path) -> None:
    models = [{"model": str(family[name]), "parameters": {"weight": 0.5}} for name in ("a", "b")]
    values = {"merge_method": "dare_ties", "base_model": str(family["base"]), "models": models}
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(yaml.safe_dump(values | {"parameters": {"density": 0.5}, "dtype": "bfloat16"}))
    merged = CliRunner().invoke(cli, ["merge", str(first), "-o", str(tmp_path / "one")])
    assert merged.exit_code == 0, merged.output
    exported = CliRunner().invoke(cli, ["export", str(tmp_path / "one"), "--to", "mergekit", "-o", str(second)])
    assert exported.exit_code == 0, exported.output
    assert exported.output.endswith(f"Recipe: {second}\n")
    written_back = yaml.safe_load(second.read_text())
    assert (written_back["dtype"], written_back.get("out_dtype")) == ("bfloat16", None)
    merge(load_recipe(second), tmp_path / "two")
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)


def test_export_names_what_it_cannot_read_or_write(family: Family, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("base: a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.yaml").write_text("")
    for source, output, expected in (
        ("run", "out.yaml", "is a run without a winner yet"),
        ("empty", "out.yaml", "holds no aftermix.yaml"),
        ("empty", "there.yaml", "exists. Name a new file"),
        ("empty", "no/out.yaml", "is no folder"),
    ):
        with pytest.raises(ConfigError, match=expected):
            export_mergekit(tmp_path / source, tmp_path / output)
    assert not (tmp_path / "out.yaml").exists()


def test_an_adapter_stands_beside_its_base_and_a_vector_folder_is_refused(tmp_path: Path) -> None:
    adapter, vector, output = tmp_path / "adapter", tmp_path / "vector", tmp_path / "out.yaml"
    for folder, file in ((adapter, "adapter_config.json"), (vector, FACTS)):
        folder.mkdir()
        (folder / file).write_text("{}")
    content = {"base": "org/base", "merge": {"method": "task_arithmetic"}}
    source = tmp_path / "aftermix.yaml"
    source.write_text(yaml.safe_dump(content | {"vectors": {"adapter": {"model": str(adapter)}}}))
    assert "Adapters: mergekit needs `--lora-merge-cache FOLDER`." in export_mergekit(source, output)
    assert yaml.safe_load(output.read_text())["models"][0]["model"] == f"org/base+{adapter}"
    assert load_recipe(output).vectors["adapter"].model == str(adapter)
    source.write_text(yaml.safe_dump(content | {"vectors": {"v": {"model": str(vector)}}}))
    with pytest.raises(
        ManyProblemsError, match=f"vectors.v: {re.escape(str(vector))} is a vector folder, which mergekit does not read"
    ):
        export_mergekit(source, tmp_path / "other.yaml")
    assert not (tmp_path / "other.yaml").exists()
