"""mergekit's recipes read: what each says here, and what is refused in which words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import Config, MergeConfig, VectorConfig, load_config
from aftermix.config.places import dump_weight
from aftermix.errors import AftermixError, ConfigError, ManyProblemsError
from aftermix.jobs.doctor.command import doctor
from aftermix.mergekit.reading import load_partial_recipe, load_recipe, read_mergekit, read_partial_mergekit
from aftermix.mergekit.settings import MergekitSetting, settle
from aftermix.mergekit.sources import SHARED
from aftermix.merging.methods import bind
from aftermix.merging.rules.places import ModelPlaces
from aftermix.yaml_file import parse_yaml

Family = Mapping[str, Path]
FOLDER = Path.cwd()


def read(text: str) -> Config:
    return read_mergekit(parse_yaml(text, where="r.yaml"), where="r.yaml")


def recipe(method: str, *, weights: Mapping[str, Any], base: str | None = "org/base", **others: Any) -> dict[str, Any]:
    models = [{"model": f"org/{name}", "parameters": {"weight": weight}} for name, weight in weights.items()]
    return {"merge_method": method, "models": models} | ({"base_model": base} if base else {}) | others


def faults(values: Mapping[str, Any]) -> list[str]:
    with pytest.raises(AftermixError) as caught:
        read_mergekit(values, where="r.yaml")
    error = caught.value
    return [str(problem) for problem in (error.problems if isinstance(error, ManyProblemsError) else [error.problem])]


def test_a_merge_takes_a_file_whose_tasks_are_still_to_be_named(tmp_path: Path) -> None:
    """As `aftermix init` writes it; a search of the file is refused, and a merge of one with other faults."""
    file, vectors = tmp_path / "aftermix.yaml", "base: b\nvectors: {v: {model: m, weight: 1.0}}\n"
    file.write_text(vectors + "evaluate: {tasks: [], items: {search: 10}}\n")
    config = load_recipe(file)
    assert config.evaluate is None
    assert config.vectors["v"].weight == 1.0
    told = r"evaluate\.tasks: .*expected at least 1 of them, found 0"
    with pytest.raises(ManyProblemsError, match=told):
        load_config(file)
    file.write_text(vectors + "evaluate: {tasks: [a, a]}\n")
    with pytest.raises(ManyProblemsError, match="task 'a' is named twice"):
        load_recipe(file)


def test_a_recipe_says_the_same_here() -> None:
    config = read(
        """
        merge_method: ties
        base_model: org/base
        models:
          - model: org/base
          - model: org/ja
            parameters: {weight: 0.5, density: [0.5, 0.5]}
          - model: org/math
            parameters: {weight: 1e-1, density: 0.3}
        parameters: {normalize: false, int8_mask: true, lambda: 0.9}
        dtype: float32
        out_dtype: bfloat16
        tokenizer_source: base
        """
    )
    assert config.base == "org/base"
    assert config.vectors == {
        "ja": VectorConfig(model="org/ja", weight=0.5, density=0.5),
        "math": VectorConfig(model="org/math", weight=0.1, density=0.3),
    }
    expected = {"compat": "mergekit", "method": "ties", "normalize": False, "lambda": 0.9, "dtype": "bfloat16"}
    assert config.merge == MergeConfig.model_validate(expected)


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        ("linear", {}, {"method": "linear"}),
        ("task_arithmetic", {}, {"method": "task_arithmetic"}),
        ("task_arithmetic", {"density": 0.5, "rescale": True}, {"method": "task_arithmetic"}),
        ("task_arithmetic", {"normalize": True}, {"intra": "all", "inter": "mean"}),
        ("ties", {}, {"method": "ties", "density": 1.0, "normalize": True}),
        ("ties", {"density": "5e-1", "normalize": "no"}, {"method": "ties", "density": 0.5, "normalize": False}),
        ("dare_linear", {}, {"method": "dare_linear", "density": 1.0, "rescale": "l1"}),
        ("dare_linear", {"rescale": False}, {"method": "dare_linear", "density": 1.0, "rescale": "none"}),
        (
            "dare_linear",
            {"density": 0.5, "normalize": True},
            {"intra": {"rule": "random", "density": 0.5, "rescale": "l1"}, "inter": "mean"},
        ),
        ("della", {}, {"method": "della", "density": 1.0, "epsilon": 0.15, "rescale": "l1", "normalize": True}),
        (
            "della_linear",
            {"density": 0.7, "epsilon": 0.05, "normalize": True, "rescale": False},
            {
                "intra": {"rule": "magnitude_sampled", "density": 0.7, "epsilon": 0.05, "rescale": "none"},
                "inter": "mean",
            },
        ),
        (
            "breadcrumbs_ties",
            {"density": 0.9},
            {"method": "breadcrumbs_ties", "density": 0.9, "gamma": 0.01, "excess": "gamma", "normalize": False},
        ),
        ("nuslerp", {}, {"method": "nuslerp_deltas"}),
        ("dare_ties", {}, {"method": "dare_ties", "density": 1.0, "rescale": "l1", "normalize": False}),
    ],
)
def test_defaults_are_those_of_mergekit(method: str, parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    base = None if method == "linear" else "org/base"
    config = read_mergekit(recipe(method, weights={"a": 1, "b": 2}, base=base, parameters=parameters), where="r.yaml")
    assert config.merge == MergeConfig.model_validate({"compat": "mergekit"} | expected)
    bind(config.merge, vectors=config.vectors)


def test_a_weight_in_the_recipe_holds_for_all_models_and_a_model_may_have_its_own() -> None:
    values = recipe("task_arithmetic", weights={"a": 0.25}, parameters={"weight": 0.5})
    values["models"].append({"model": "org/b"})
    config = read_mergekit(values, where="r.yaml")
    assert {name: vector.weight for name, vector in config.vectors.items()} == {"a": 0.25, "b": 0.5}


def test_the_base_is_a_model_among_others_in_linear_and_no_operand_elsewhere() -> None:
    linear = read_mergekit(recipe("linear", weights={"base": 0.5, "a": 0.5}), where="r.yaml")
    assert {name: vector.weight for name, vector in linear.vectors.items()} == {"base": 0.5, "a": 0.5}
    joined = read_mergekit(recipe("linear", weights={"a": 0.5}, parameters={"weight": 2}), where="r.yaml")
    assert {name: vector.weight for name, vector in joined.vectors.items()} == {"a": 0.5, "base": 2.0}
    silent = read_mergekit(recipe("linear", weights={"base": 0.0, "a": 0.5}), where="r.yaml")
    assert (silent.base, list(silent.vectors)) == ("org/base", ["a"])
    ties = read_mergekit(recipe("ties", weights={"base": 0.5, "a": 0.5}), where="r.yaml")
    assert list(ties.vectors) == ["a"]


def test_weights_of_zero_for_parts_of_names_are_exclusions() -> None:
    weights = {
        name: [{"filter": "embed_tokens", "value": 0}, {"filter": "norm", "value": 0}, {"value": weight}]
        for name, weight in {"a": 0.5, "b": -0.5}.items()
    }
    config = read_mergekit(recipe("ties", weights=weights), where="r.yaml")
    assert config.merge.exclude == ("embed_tokens", "norm")
    assert {name: vector.weight for name, vector in config.vectors.items()} == {"a": 0.5, "b": -0.5}


def test_conditions_that_change_nothing_are_one_value() -> None:
    weight = [{"filter": "mlp", "value": 0.5}, {"filter": "*", "value": [0.5, 0.5]}, {"value": 9}]
    assert read_mergekit(recipe("ties", weights={"a": weight}), where="r.yaml").vectors["a"].weight == 0.5


def test_keys_that_touch_no_weight_are_taken() -> None:
    keys = {"name": "first", "random_seed": 42, "embed_slerp": True, "chat_template": "auto"}
    config = read_mergekit(recipe("ties", weights={"a": 1}, **keys), where="r.yaml")
    assert (config.merge.seed, config.merge.chat_template) == (42, "auto")


def test_a_tokenizer_may_come_from_one_of_the_models() -> None:
    values = recipe("ties", weights={"a": 1, "b": 1}, tokenizer={"source": "org/b"})
    assert read_mergekit(values, where="r.yaml").vectors["b"].role == "instruction"
    assert read_mergekit(recipe("ties", weights={"a": 1}, tokenizer_source="org/base"), where="r.yaml").vectors[
        "a"
    ] == VectorConfig(model="org/a", weight=1.0)


def test_paths_are_taken_from_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    values = {"merge_method": "linear", "models": [{"model": "models/a", "parameters": {"weight": 1}}]}
    assert read_mergekit(values, where="r.yaml").vectors["a"].model == str(tmp_path / "models" / "a")


def test_one_slice_over_all_layers_is_a_plain_merge(family: Family) -> None:
    sources = [
        {"model": str(family[name]), "layer_range": [0, 2], "parameters": {"weight": 0.5}} for name in ("a", "base")
    ]
    values = {
        "merge_method": "ties",
        "base_model": str(family["base"]),
        "slices": [{"sources": sources, "parameters": {"density": 0.5, "normalize": False}}],
    }
    config = read_mergekit(values, where="r.yaml")
    assert config.vectors == {"a": VectorConfig(model=str(family["a"]), weight=0.5)}
    assert config.merge.options == {"density": 0.5, "normalize": False}
    sources[0]["layer_range"] = [0, 1]
    assert faults(values) == [
        f"r.yaml: slices[0].sources[0].layer_range: is [0, 1], and '{family['a']}' has the layers [0, 2]. "
        "Take all layers of each model."
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"merge_method": "arcee_fusion"},
            "r.yaml: merge_method: 'arcee_fusion' does not give here what it gives in mergekit. "
            "The same in both: linear, task_arithmetic, ties, dare_linear, dare_ties, slerp, karcher, model_stock. "
            "Read alone: della, della_linear, breadcrumbs, breadcrumbs_ties, nuslerp, sce, passthrough.",
        ),
        (
            {"merge_method": "della", "parameters": {"density": 0.9}},
            "r.yaml: models: have densities from 0.9 to 0.9, and epsilon 0.15. "
            "Lower `epsilon`: density plus and minus it are probabilities.",
        ),
        (
            {"merge_method": "nuslerp", "models": [{"model": "org/a", "parameters": {"weight": 1}}] * 3},
            "r.yaml: models: 'org/a' is listed twice. Add the two weights up.",
        ),
        (
            {"merge_method": "breadcrumbs", "parameters": {"rescale": True}},
            "r.yaml: parameters.rescale: breadcrumbs does not rescale here. Remove it, or use dare_ties.",
        ),
        (
            {"densty": 1},
            "r.yaml: densty: is not a known key. A recipe takes: merge_method, base_model, models, slices, parameters, "
            "dtype, out_dtype, tokenizer_source, tokenizer, chat_template, name, random_seed, embed_slerp.",
        ),
        ({"base_model": None}, "r.yaml: base_model: ties needs the base of its vectors. Add `base_model: PATH`."),
        (
            {"modules": {"default": {}}},
            "r.yaml: modules: merges parts of a model each in its own way. "
            "Give one list of `models` for the whole model.",
        ),
        (
            {"chat_template": "chatml"},
            "r.yaml: chat_template: is 'chatml', a template that mergekit brings along. "
            "Write `auto`, or the template itself.",
        ),
        (
            {"random_seed": -1},
            "r.yaml: random_seed: expected a whole number from 0, found -1. Correct it.",
        ),
        (
            {"dtype": "float64"},
            "r.yaml: dtype: expected one of bfloat16, float16, float32, found 'float64'. Arithmetic is float32 here.",
        ),
        (
            {"tokenizer": {"source": "union", "tokens": {}}},
            "r.yaml: tokenizer: sets more than the source. Write `tokenizer_source: base`, or name a model.",
        ),
        (
            {"tokenizer_source": "org/other"},
            "r.yaml: tokenizer_source: 'org/other' is no model of the recipe. Write `base`, or name one.",
        ),
        (
            {"tokenizer": {"source": "base", "pad_to_multiple_of": 64}},
            "r.yaml: tokenizer: sets more than the source. Write `tokenizer_source: base`, or name a model.",
        ),
        (
            {"parameters": {"normalise": True}},
            "r.yaml: parameters.normalise: ties has no parameter 'normalise' in mergekit. "
            "It takes: weight, density, int8_mask, normalize, rescale, lambda.",
        ),
        (
            {"parameters": {"rescale": True}},
            "r.yaml: parameters.rescale: ties does not rescale here. Remove it, or use dare_ties.",
        ),
        (
            {"parameters": {"normalize": "perhaps"}},
            "r.yaml: parameters.normalize: expected a true or false, found 'perhaps'. Correct it.",
        ),
        ({"slices": []}, None),
        ({"models": None}, "r.yaml: models: is missing. List the models once, each with its weight."),
        (
            {"models": None, "slices": [{}, {}]},
            "r.yaml: slices: expected one slice, found 2. "
            "One slice over all layers is taken; models are not cut and stacked here.",
        ),
        ({"models": [{"model": "org/base"}]}, "r.yaml: models: name no model besides the base. Add a model to merge."),
        ({"models": ["org/a"]}, "r.yaml: models[0]: expected a model with its parameters, found 'org/a'. "
            "Write {model: PATH}."),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_say(change: dict[str, Any], expected: str | None) -> None:
    values = recipe("ties", weights={"a": 1}) | change
    if expected is None:
        read_mergekit(values, where="r.yaml")
    else:
        assert expected in faults(values)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"parameters": {"weight": 1, "normalize": True}},
            "parameters.normalize: holds for all models. "
            "Move it to the recipe's own `parameters`; mergekit reads it only there.",
        ),
        (
            {"parameters": {"weight": 1, "densty": 0.5}},
            "parameters.densty: ties has no parameter 'densty' in mergekit. It takes: weight, density.",
        ),
        (
            {},
            "parameters.weight: is required, and not set for every tensor. "
            "Set `weight` in the model's parameters, or in the recipe's for all models.",
        ),
        (
            {"parameters": {"weight": [0.1, "much"]}},
            "parameters.weight: expected a number, found 'much'. Correct it.",
        ),
        (
            {"parameters": {"weight": 1, "density": [{"filter": "mlp", "value": 0}, {"value": 1}]}},
            "parameters.density: expected 0 < density <= 1, found 0. Correct it.",
        ),
        (
            {"parameters": {"weight": 1, "density": 1.5}},
            "parameters.density: expected 0 < density <= 1, found 1.5. Correct it.",
        ),
        ({"parameters": {"weight": "much"}}, "parameters.weight: expected a number, found 'much'. Correct it."),
        ({"parameters": {"weight": float("nan")}}, "parameters.weight: expected a number, found nan. Correct it."),
        (
            {"parameters": {"weight": [{"filer": "mlp", "value": 0}]}},
            "parameters.weight[0]: expected `filter` and `value`, found {'filer': 'mlp', 'value': 0}. "
            "Write {filter: mlp, value: 0.5}.",
        ),
        (
            {"parameters": {"weight": 1}, "layer_range": [0, 2]},
            "layer_range: is not a known key. An entry takes: model, parameters.",
        ),
        (
            {"model": "org/x+org/lora", "parameters": {"weight": 1}},
            "model: 'org/x+org/lora' is an adapter of a model that is not `base_model`. "
            "Merge the adapter into its model, and name the result.",
        ),
        (
            {"model": "org/x@v2", "parameters": {"weight": 1}},
            "model: 'org/x' is wanted at revision 'v2'. Download that revision into a folder, and name the folder.",
        ),
        (
            {"model": {"model": "org/x", "override_architecture": "L"}, "parameters": {"weight": 1}},
            "model.override_architecture: is not supported. Remove it: names and shapes of the tensors decide here.",
        ),
    ],
)
def test_what_a_model_of_a_recipe_may_not_say(entry: dict[str, Any], expected: str) -> None:
    values = recipe("ties", weights={}) | {"models": [{"model": "org/a"} | entry]}
    assert faults(values) == [f"r.yaml: models[0].{expected}"]


def test_all_faults_are_told_at_once() -> None:
    values = recipe("ties", weights={"a": [0, "x"], "b": {}}, dtype="int64", foo=1)
    assert len(faults(values)) == 4


def test_one_model_twice_is_refused() -> None:
    values = recipe("ties", weights={"a": 1})
    assert faults(values | {"models": values["models"] * 2})[0].startswith("r.yaml: models: 'org/a' is listed twice.")


def test_linear_without_normalisation_needs_weights_that_sum_to_one() -> None:
    read_mergekit(recipe("linear", weights={"a": 0.5, "b": 0.5}, base=None, parameters={"normalize": False}), where="r")
    expected = "is false, and the weights sum to 2: the models would be added up."
    values = recipe("linear", weights={"a": 1, "b": 1}, base=None, parameters={"normalize": False})
    assert expected in faults(values)[0]


def test_a_weight_that_is_zero_for_some_tensors_of_one_vector_alone_is_a_rule() -> None:
    weights = {"a": [{"filter": "mlp", "value": 0}, {"value": 1}], "b": 1}
    config = read_mergekit(recipe("ties", weights=weights), where="r.yaml")
    assert config.merge.exclude is None
    assert dump_weight(config.vectors["a"].weight) == [{"match": "mlp", "value": 0}, {"value": 1}]
    assert config.vectors["b"].weight == 1


def test_gradients_and_filters_are_rules_and_a_filter_is_never_a_pattern() -> None:
    inner = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "layers.[0]", "value": 0.7}]
    config = read_mergekit(
        recipe("ties", weights={"a": inner, "b": [0.2, 0.8]}, parameters={"weight": 0.4, "density": [1, 0.7, 0.1]}),
        where="r.yaml",
    )
    assert dump_weight(config.vectors["a"].weight) == [
        {"match": "self_attn", "value": [0, 0.5, 1]},
        {"match": r"re:layers\.\[0\]", "value": 0.7},
        {"value": 0.4},
    ]
    assert dump_weight(config.vectors["b"].weight) == [{"value": [0.2, 0.8]}]
    assert [dump_weight(vector.density or 0) for vector in config.vectors.values()] == [[{"value": [1, 0.7, 0.1]}]] * 2


def test_what_has_one_value_for_all_tensors_is_refused_as_a_gradient() -> None:
    told = faults(recipe("ties", weights={"a": 1}, parameters={"lambda": [0.5, 1.0]}))
    assert told == [
        "r.yaml: parameters.lambda: is a gradient over the layers ([0.5, 1.0]). "
        "Give one `lambda`: it is the same for all layers here."
    ]


FILTERS = st.sampled_from([None, "*", "mlp", "up", "embed", "norm"])
VALUES = st.sampled_from([0, 0.5, 1])
SETTINGS = st.one_of(VALUES, st.lists(st.fixed_dictionaries({"filter": FILTERS, "value": VALUES}), max_size=4))
TENSORS = ("mlp.up", "mlp.down", "embed_tokens", "norm", "q_proj")


def evaluated(setting: Any, tensor: str) -> Any:
    """The rule of mergekit, one tensor at a time: the first condition that holds decides; None if there is none."""
    if not isinstance(setting, list):
        return setting
    holds = (entry["value"] for entry in setting if entry["filter"] in (None, "*") or entry["filter"] in tensor)
    return next(holds, None)


@given(inner=SETTINGS, outer=SETTINGS)
def test_a_settled_weight_is_what_mergekit_gives_every_tensor(inner: Any, outer: Any) -> None:
    places = ModelPlaces.find(TENSORS)
    try:
        found = settle("weight", [("inner", {"weight": inner}), ("outer", {"weight": outer})])
    except ConfigError:
        assert any(evaluated(inner, tensor) is evaluated(outer, tensor) is None for tensor in ("", *TENSORS))
        return
    for tensor in TENSORS:
        expected = evaluated(inner, tensor)
        expected = evaluated(outer, tensor) if expected is None else expected
        assert expected == places.read(found.placed, tensor, where="weight")


def test_a_parameter_without_a_value_takes_its_default() -> None:
    assert settle("density", [("here", {})], default=1.0) == MergekitSetting(1.0)
    assert settle("density", [("here", {"density": []})], default=1.0) == MergekitSetting(1.0)


def test_the_recipe_in_the_documentation_is_taken() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "mergekit.md").read_text(encoding="utf-8")
    example = page.split("```yaml mergekit\n")[1].split("```")[0]
    assert read(example).vectors.keys() == {"ja", "math"}


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.sampled_from(["org/a", "base", "ties", ""])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["model", "parameters", "weight", "filter", "value", "sources"]), inner),
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"merge_method": st.sampled_from([*SHARED, None, 1])},
        optional=dict.fromkeys(
            ("models", "slices", "base_model", "parameters", "dtype", "tokenizer", "tokenizer_source"), JSON
        ),
    )
)
def test_whatever_a_recipe_holds_it_is_read_or_refused(values: dict[str, Any]) -> None:
    try:
        read_mergekit(values, where="r.yaml")
    except AftermixError as error:
        assert str(error)


def test_a_misspelt_method_is_asked_after() -> None:
    known = (
        "The same in both: linear, task_arithmetic, ties, dare_linear, dare_ties, slerp, karcher, model_stock. "
        "Read alone: della, della_linear, breadcrumbs, breadcrumbs_ties, nuslerp, sce, passthrough."
    )
    for method, meant in (("dare-ties", "dare_ties"), ("TIES", "ties"), ("task-arithmetic", "task_arithmetic")):
        told = f"r.yaml: merge_method: there is no method '{method}'. Did you mean '{meant}'? {known}"
        assert faults({"merge_method": method}) == [told]
    for method in ("arcee_fusion", "multislerp", "ram", 7):
        told = f"r.yaml: merge_method: '{method}' does not give here what it gives in mergekit. {known}"
        assert faults({"merge_method": method}) == [told]


@pytest.mark.parametrize(
    ("values", "base", "models"),
    [
        (recipe("arcee_fusion", weights={"a": 1, "b": 2}), "org/base", {"a": "org/a", "b": "org/b"}),
        (recipe("ties", weights={"a": [0, 1]}, chat_template=7), "org/base", {"a": "org/a"}),
        (
            {"merge_method": "ties", "base_model": "x@main", "models": [{"model": "y"}, 3, {"model": 4}]},
            None,
            {"y": "y"},
        ),
        (
            {"merge_method": "slerp", "slices": [{"sources": [{"model": "a"}, {"model": "a"}, {"model": "b+c"}]}]},
            None,
            {"a": "a"},
        ),
        ({"merge_method": ["ties"], "models": "a"}, None, {}),
        ({"merge_method": "passthrough", "slices": 3}, None, {}),
    ],
)
def test_models_of_a_recipe_with_faults_are_looked_at(
    values: Mapping[str, Any], base: str | None, models: dict[str, str]
) -> None:
    partial = read_partial_mergekit(values, where="r.yaml")
    assert [str(problem) for problem in partial.problems] == faults(values)
    assert partial.config.base == base
    assert {name: vector.model for name, vector in partial.config.vectors.items()} == models


def test_a_recipe_and_its_models_are_one_round(family: Family, tmp_path: Path) -> None:
    models = [{"model": str(family["b"]), "parameters": {"wieght": 0.5}}, {"model": str(tmp_path / "gone")}]
    values = {"merge_method": "ties", "base_model": str(family["base"]), "models": models, "densty": 0.5}
    (tmp_path / "r.yaml").write_text(json.dumps(values))
    usable = load_partial_recipe(tmp_path / "r.yaml")
    found = doctor(usable.config, faults=usable.problems, written=usable.written)
    assert [problem.where for problem in found.problems] == [
        "r.yaml: densty",
        "r.yaml: models[0].parameters.wieght",
        "r.yaml: models[0].parameters.weight",
        "r.yaml: models[1].parameters.weight",
        str(tmp_path / "gone"),
    ]


def test_a_recipe_for_a_mixture_of_experts_is_told_by_its_kind(tmp_path: Path) -> None:
    file = tmp_path / "moe.yml"
    file.write_text("base_model: a\ngate_mode: cheap_embed\nexperts:\n- {source_model: b, positive_prompts: [math]}\n")
    with pytest.raises(ConfigError, match="moe.yml: is a recipe of mergekit-moe, which builds a mixture of experts"):
        load_recipe(file)
