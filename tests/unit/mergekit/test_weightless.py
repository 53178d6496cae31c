"""Recipes of mergekit's methods without weights: read, written, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import Config, VectorConfig, parse_config
from aftermix.config.places import dump_weight
from aftermix.errors import ManyProblemsError
from aftermix.mergekit.reading import read_mergekit
from aftermix.mergekit.writing import translate_to_mergekit
from aftermix.yaml_file import parse_yaml


def read(**values: Any) -> Config:
    models = values.pop("models", ["org/a", "org/b"])
    return read_mergekit(values | {"models": [{"model": model} for model in models]}, where="r.yaml")


def faults(**values: Any) -> list[str]:
    with pytest.raises(ManyProblemsError) as caught:
        read(**values)
    return [str(problem) for problem in caught.value.problems]


def ours(merge: dict[str, Any], vectors: dict[str, dict[str, Any]], **others: Any) -> Config:
    vectors = {name: {"model": f"org/{name}"} | vector for name, vector in vectors.items()}
    return parse_config({"vectors": vectors, "merge": merge} | others, where="t", folder=Path.cwd())


def test_t_of_slerp_is_the_weight_of_the_other_model() -> None:
    config = read(merge_method="slerp", base_model="org/b", parameters={"t": 0.25})
    assert config.base == "org/b"
    assert config.vectors == {
        "a": VectorConfig(model="org/a", weight=0.25),
        "b": VectorConfig(model="org/b", weight=0.75),
    }
    assert config.merge.method == "slerp"
    assert config.merge.options == {}
    assert config.merge.exclusions(for_search=True) == ()


def test_t_by_place_is_the_weight_of_the_other_model_and_the_rest_that_of_the_base() -> None:
    t = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": 0.25}, {"value": 0.5}]
    vectors = read(merge_method="slerp", base_model="org/a", models=["org/b"], parameters={"t": t}).vectors
    assert dump_weight(vectors["b"].weight) == [
        {"match": "self_attn", "value": [0, 0.5, 1]},
        {"match": "mlp", "value": 0.25},
        {"value": 0.5},
    ]
    assert dump_weight(vectors["a"].weight) == [
        {"match": "self_attn", "value": [1, 0.5, 0]},
        {"match": "mlp", "value": 0.75},
        {"value": 0.5},
    ]


def test_the_base_joins_the_models_of_slerp_and_karcher_and_not_those_of_model_stock() -> None:
    assert sorted(read(merge_method="slerp", base_model="c", models=["a"], parameters={"t": 1}).vectors) == ["a", "c"]
    karcher = read(merge_method="karcher", base_model="c", parameters={"max_iter": 3, "tol": "1e-6"})
    assert {name: vector.weight for name, vector in karcher.vectors.items()} == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert karcher.merge.options == {"max_iterations": 3, "tolerance": 1e-6}
    assert read(merge_method="karcher").base is None
    stock = read(merge_method="model_stock", base_model="c", parameters={"filter_wise": True})
    assert sorted(stock.vectors) == ["a", "b"]
    assert stock.merge.options == {"filter_wise": True}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"merge_method": "slerp", "base_model": "org/a"},
            "r.yaml: parameters.t: is required. Set `t`: 0 is `base_model`, 1 the other model.",
        ),
        (
            {"merge_method": "slerp", "parameters": {"t": 0.5}},
            "r.yaml: base_model: slerp needs the model that it starts from. Add `base_model: PATH`.",
        ),
        (
            {"merge_method": "slerp", "base_model": "org/c", "parameters": {"t": 0.5}},
            "r.yaml: models: slerp is between two models, there are 3. Keep two.",
        ),
        (
            {"merge_method": "karcher", "parameters": {"tol": [0.5, 1]}},
            "r.yaml: parameters.tol: is a gradient over the layers ([0.5, 1]). "
            "Give one `tol`: it is the same for all layers here.",
        ),
        (
            {"merge_method": "slerp", "base_model": "org/a", "parameters": {"t": [{"filter": "mlp", "value": 0}, 1]}},
            "r.yaml: parameters.t[1]: expected `filter` and `value`, found 1. Write {filter: mlp, value: 0.5}.",
        ),
        (
            {"merge_method": "karcher", "parameters": {"max_iter": 2.5}},
            "r.yaml: parameters.max_iter: expected a number, found 2.5. Correct it.",
        ),
        (
            {"merge_method": "model_stock", "base_model": "c", "parameters": {"lambda": 0.5}},
            "r.yaml: parameters.lambda: model_stock has no parameter 'lambda' in mergekit. It takes: filter_wise.",
        ),
        (
            {"merge_method": "model_stock"},
            "r.yaml: base_model: model_stock needs the base of its vectors. Add `base_model: PATH`.",
        ),
    ],
)
def test_what_such_a_recipe_may_not_say(values: dict[str, Any], expected: str) -> None:
    assert faults(**values) == [expected]


def test_a_weight_that_mergekit_would_ignore_is_refused() -> None:
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in "ab"]
    with pytest.raises(ManyProblemsError) as caught:
        read_mergekit({"merge_method": "karcher", "models": models}, where="r.yaml")
    assert str(caught.value.problems[0]) == (
        "r.yaml: models[0].parameters.weight: karcher has no parameter 'weight' in mergekit. "
        "It takes: none for a model."
    )


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    """What such recipes read as."""
    method = draw(st.sampled_from(["slerp", "karcher", "model_stock"]))
    if method == "slerp":
        share = draw(st.integers(-32, 96)) / 64
        base, other = draw(st.permutations(["a", "b"]))
        weights = {base: {"weight": 1 - share}, other: {"weight": share}}
        return ours({"compat": "mergekit", "method": method}, dict(sorted(weights.items())), base=f"org/{base}")
    names = draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=4, unique=True))
    merge: dict[str, Any] = {"compat": "mergekit", "method": method, "dtype": draw(st.sampled_from([None, "float16"]))}
    if method == "karcher":
        merge |= {"max_iterations": draw(st.integers(1, 20)), "tolerance": draw(st.sampled_from([1e-5, 0.01]))}
        base = draw(st.sampled_from([{}, {"base": f"org/{names[0]}"}]))
        return ours(merge, {name: {} for name in sorted(names)}, **base)
    merge["filter_wise"] = draw(st.booleans())
    return ours(merge, {name: {} for name in sorted(names)}, base="org/base")


@given(configurations())
def test_what_is_written_reads_back(config: Config) -> None:
    text = translate_to_mergekit(config).format_file()
    again = read_mergekit(parse_yaml(text, where="r.yaml"), where="r.yaml")
    assert again == config
    assert translate_to_mergekit(again).format_file() == text


def test_a_base_that_is_no_model_of_karcher_is_left_out_with_a_note() -> None:
    vectors: dict[str, dict[str, Any]] = {"a": {"weight": 0.3}, "b": {"weight": 0.3}}
    found = translate_to_mergekit(ours({"method": "karcher"}, vectors, base="org/base"), dtype="bfloat16")
    assert found.recipe == {
        "merge_method": "karcher",
        "models": [{"model": "org/a"}, {"model": "org/b"}],
        "parameters": {"max_iter": 10, "tol": 1e-5},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    assert found.notes[-1] == (
        "aftermix takes configuration and tokenizer from org/base; mergekit from base_model or the first model."
    )


def test_adapters_are_written_with_their_base() -> None:
    config = ours({"method": "model_stock"}, {"a": {}, "b": {}}, base="org/base")
    found = translate_to_mergekit(config, adapters={"b"})
    assert found.recipe["models"] == [{"model": "org/a"}, {"model": "org/base+org/b"}]
    assert found.notes[-1] == "Adapters: mergekit needs `--lora-merge-cache FOLDER`."


@pytest.mark.parametrize(
    ("merge", "vectors", "expected"),
    [
        (
            {"method": "karcher"},
            {"a": {"weight": 0.5}, "b": {"weight": 0.3}},
            "vectors: mergekit's karcher has no weights, and these differ. Give all vectors the same.",
        ),
        (
            {"method": "model_stock", "lambda": 0.5},
            {"a": {}, "b": {}},
            "merge.lambda: mergekit's model_stock has no lambda. Drop it.",
        ),
        (
            {"method": "model_stock"},
            {"a": {}},
            "vectors: mergekit's model_stock wants two models beside the base. Add a vector.",
        ),
        (
            {"method": "slerp", "exclude": ["embed_tokens"]},
            {"a": {}, "b": {}},
            "merge.exclude: mergekit's slerp has no tensors that keep the base's values. Drop it.",
        ),
        ({"method": "slerp"}, {"a": {}}, "vectors: slerp is between two models, there are 1. Keep two."),
        (
            {"method": "slerp"},
            {"a": {"weight": -1.0}, "b": {}},
            "vectors: slerp divides by the sum of weights, which is 0. Give at least one weight.",
        ),
        (
            {"method": "pcb"},
            {"a": {}, "b": {}},
            "merge: pcb has no counterpart in mergekit. There is one for: dare_linear, dare_ties, karcher, "
            "model_stock, slerp, task_arithmetic, ties.",
        ),
    ],
)
def test_what_mergekit_cannot_say_is_refused(
    merge: dict[str, Any], vectors: dict[str, dict[str, Any]], expected: str
) -> None:
    with pytest.raises(ManyProblemsError) as caught:
        translate_to_mergekit(ours(merge, vectors, base="org/base"))
    assert [str(problem) for problem in caught.value.problems] == [expected]
