"""Weights and densities by the place of a tensor, held against sums written out tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import aftermix
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.statistics import open_merger
from aftermix.mergekit.reading import load_recipe
from aftermix.merging.prepared import prepare_vectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.rules.places import ModelPlaces
from aftermix.merging.stream import stream_merged_tensors

Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]
RULES = [{"match": "self_attn", "value": 0.3}, {"match": ["mlp.up", "mlp.down"], "value": [0.2, 0.8]}, {"value": 0.5}]
EXPECTED = {"mlp.up_proj": (0.2, 0.4, 0.6, 0.8), "mlp.down_proj": (0.2, 0.4, 0.6, 0.8), "self_attn": (0.3,) * 4}


def stored(folder: Path) -> Tensors:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def weight_of(name: str) -> float:
    """The weight by RULES, looked up by hand."""
    layer = re.match(r"model\.layers\.(\d)\.", name)
    return next((values[int(layer[1])] for part, values in EXPECTED.items() if layer and part in name), 0.5)


def config_of(family: Family, vectors: Mapping[str, Mapping[str, Any]], **merge_values: Any) -> Config:
    entries = {name: {"model": str(family[name]), **own} for name, own in vectors.items()}
    values = {"base": str(family["base"]), "vectors": entries, "merge": merge_values}
    return parse_config(values, where="places.yaml", folder=Path())


def refusal(config: Config, output: Path) -> str:
    with pytest.raises(AftermixError) as caught:
        merge(config, output)
    assert not output.exists()
    return str(caught.value)


def test_each_tensor_is_merged_at_the_weight_of_the_first_rule_that_fits(deep_family: Family, tmp_path: Path) -> None:
    config = config_of(deep_family, {"a": {"weight": RULES}, "b": {"weight": -0.25}})
    found, models = stored(merge(config, tmp_path / "out")), {k: stored(f) for k, f in deep_family.items()}
    for name, base in models["base"].items():
        terms = weight_of(name) * (models["a"][name] - base).double() - 0.25 * (models["b"][name] - base).double()
        torch.testing.assert_close(found[name].double(), base.double() + terms, rtol=0, atol=2e-7)


def test_the_recipe_beside_the_model_says_it_again_and_so_do_card_and_python(
    deep_family: Family, tmp_path: Path
) -> None:
    first = merge(config_of(deep_family, {"a": {"weight": RULES}}), tmp_path / "first")
    again = merge(load_recipe(first / "aftermix.yaml"), tmp_path / "again")
    merged = aftermix.Pool(deep_family["base"], {"a": deep_family["a"], "b": deep_family["b"]}).merge({"a": RULES})
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert all(tensor.equal(stored(first)[name]) for name, tensor in merged.tensors())
    assert repr(merged) == "Merged(task_arithmetic: a=self_attn 0.3, mlp.up or mlp.down 0.2 to 0.8, else 0.5, b=0)"
    card = "| expert | self_attn 0.3000, mlp.up or mlp.down 0.2000 to 0.8000, else 0.5000 |"
    assert card in (first / "README.md").read_text()


def test_prepared_vectors_give_the_same_bits(deep_family: Family) -> None:
    config = config_of(deep_family, {"a": {"weight": RULES}, "b": {"weight": 0.5, "density": 0.4}}, method="ties")
    merger = open_merger(config, open_pool(config), MergeRecipe.from_config(config.merge, vectors=config.vectors))
    weights = {name: vector.weight for name, vector in config.vectors.items()}
    streamed = dict(stream_merged_tensors(merger, weights))
    assert all(tensor.equal(streamed[name]) for name, tensor in prepare_vectors(merger).stream_merged(weights))


def test_a_density_may_depend_on_the_place(deep_family: Family, tmp_path: Path) -> None:
    density = [{"match": "mlp", "value": [1.0, 0.25]}, {"value": 0.5}]
    config = config_of(deep_family, {"a": {"density": density}}, method="ties")
    shares = json.loads((merge(config, tmp_path / "out") / "shares.json").read_text())
    kept = {name: entry["shares"]["a"] for name, entry in shares["tensors"].items()}
    assert [kept[f"model.layers.{n}.mlp.up_proj.weight"] for n in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert kept["model.layers.3.self_attn.q_proj.weight"] == kept["lm_head.weight"] == 0.5
    assert shares["vectors"] == {"a": {"weight": 1.0}}


def test_shares_hold_the_rules(deep_family: Family, tmp_path: Path) -> None:
    config = config_of(deep_family, {"a": {"weight": RULES, "density": 0.5}}, method="ties")
    shares = json.loads((merge(config, tmp_path / "out") / "shares.json").read_text())
    assert shares["vectors"]["a"]["weight"] == [
        {"match": ["self_attn"], "value": 0.3},
        {"match": ["mlp.up", "mlp.down"], "value": [0.2, 0.8]},
        {"value": 0.5},
    ]


def test_a_tied_head_weighs_what_its_embedding_does(family: Family, tmp_path: Path) -> None:
    rules = [{"match": "lm_head", "value": 0.9}, {"match": "kind:embeddings", "value": 0.25}, {"value": 0}]
    found = stored(merge(config_of(family, {"b": {"weight": rules}}), tmp_path / "out"))
    plain = stored(merge(config_of(family, {"b": {"weight": 0.25}}), tmp_path / "plain"))
    base = stored(family["base"])
    for name in base:
        assert found[name].equal(plain[name] if "embed_tokens" in name else base[name]), name


def test_what_no_rule_fits_is_refused_unless_it_is_excluded(deep_family: Family, tmp_path: Path) -> None:
    rules = [{"match": "self_attn", "value": 0.3}, {"match": "mlp", "value": 0.5}]
    told = refusal(config_of(deep_family, {"a": {"weight": rules}}), tmp_path / "out")
    assert told == (
        "vectors.a.weight: no rule fits the tensor 'lm_head.weight'. "
        "End the list with a rule without `match`, or exclude the tensor."
    )
    merge(config_of(deep_family, {"a": {"weight": rules}}, exclude=["lm_head", "embed", "norm"]), tmp_path / "out")


def test_weights_that_cancel_in_one_place_are_refused_where_they_divide(deep_family: Family, tmp_path: Path) -> None:
    vectors = {"a": {"weight": [{"match": "mlp", "value": -1}, {"value": 1}]}, "b": {"weight": 1}}
    told = refusal(config_of(deep_family, vectors, method="linear"), tmp_path / "out")
    assert told.startswith(
        "vectors: linear divides by the sum of weights, which is 0 (a -1, b 1) in 'model.layers.0.mlp.down_proj.weight'"
    )


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (
            [0.2, 0.8],
            "vectors.a.weight: expected one number or rules; numbers over the blocks are [{value: [0.2, 0.8]}",
        ),
        (
            [{"mtch": "mlp", "value": 1}],
            "vectors.a.weight.0.mtch: is not a known key. This section takes: match, value",
        ),
        ([{"match": "mlp"}], "vectors.a.weight.0.value: Field required"),
        ([{"match": "mlp", "value": [0.1, "much"]}], "vectors.a.weight.0.value.1: Input should be a valid number"),
        ([], "vectors.a.weight: expected at least 1 of them"),
    ],
)
def test_what_rules_may_not_say(weight: Any, expected: str) -> None:
    with pytest.raises(AftermixError) as caught:
        parse_config({"vectors": {"a": {"model": "m", "weight": weight}}}, where="f", folder=Path())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        (["model.layers.0.a", "model.layers.1.a", "norm"], [0, 1, 0]),
        (["encoder.block.0.a", "encoder.block.2.a", "decoder.block.0.a", "decoder.block.1.a"], [0, 1, 0, 1]),
        (["model.layers.0.mlp.experts.7.up", "model.layers.4.mlp.experts.3.up"], [0, 1]),
        (["h.0.a", "ln_f"], [1, 0]),
    ],
)
def test_depth_is_counted_within_each_stack(names: list[str], depths: list[float]) -> None:
    assert list(ModelPlaces.find(names).depths.values()) == depths
