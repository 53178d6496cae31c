"""`search.over`: what it spans, and every refusal, before any weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, as_yaml_values, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.search.settings import apply_settings, leaves_vectors_as_they_are
from aftermix.jobs.search.space_from_config import build_space, describe_space, read_own_settings
from aftermix.merging.recipe import MergeRecipe
from aftermix.search.space import ChoiceSet, NumberRange

HERE = Path(__file__).parent


def parsed(over: dict[str, Any], merge: dict[str, Any] | None = None, **vectors: dict[str, Any]) -> Config:
    values = {
        "base": "base",
        "vectors": {name: {"model": name} | vectors.get(name, {}) for name in ("ja", "math", "code")},
        "merge": merge or {"method": "ties"},
        "search": {"over": over},
    }
    return parse_config(values, where="file.yaml", folder=HERE)


OBIM = {"method": "obim", "statistics": "statistics"}
STEPS = {"low": 0.1, "high": 0.5, "step": 0.05}


def test_nothing_beside_the_weights_by_default() -> None:
    space = build_space(parsed({}))
    assert (space.settings, space.shares, space.own, space.dimensions) == ({}, (), {}, 3)
    assert space.bounds == {"ja": (0, 1), "math": (0, 1), "code": (0, 1)}


def test_one_dimension_for_all_vectors_or_one_for_each() -> None:
    one = build_space(parsed({"density": {"low": 0.1, "high": 0.9}}))
    assert one.settings == {"density": NumberRange(0.1, 0.9)}
    assert one.own == {"density": 0.2}
    each = build_space(parsed({"density": {"low": 0.1, "high": 0.9, "each": True}}, math={"density": 0.6}))
    assert list(each.settings) == ["density.ja", "density.math", "density.code"]
    assert each.own == {"density.ja": 0.2, "density.math": 0.6, "density.code": 0.2}
    assert each.dimensions == 6


def test_ratios_and_orders_of_the_paper() -> None:
    """OBIM, Table 8: n_k from 0.1 to 0.5 in steps of 0.05; rotation, or each model first or last."""
    space = build_space(parsed({"ratio": STEPS, "order": ["rotation", "first", "last"], "weights": False}, OBIM))
    assert space.shares == ("ratio.ja", "ratio.math", "ratio.code")
    # By name the others: "code first" and "math last" are one order.
    assert space.settings["order"] == ChoiceSet(
        (
            "rotation",
            ("code", "ja", "math"), ("ja", "code", "math"), ("math", "code", "ja"),
            ("ja", "math", "code"), ("code", "math", "ja"),
        )
    )  # fmt: skip
    assert space.own == {"ratio.ja": 1 / 3, "ratio.math": 1 / 3, "ratio.code": 1 / 3, "order": "rotation"}
    assert space.bounds == {"ja": (1, 1), "math": (1, 1), "code": (1, 1)}
    assert space.dimensions == 4
    own = build_space(parsed({"ratio": STEPS}, OBIM | {"order": ["math", "ja", "code"]}, ja={"ratio": 0.2})).own
    assert own["ratio.ja"] == 0.2


def test_any_option_of_the_method_and_lambda() -> None:
    over = {"epsilon": {"low": 0, "high": 0.2}, "normalize": [True, False], "lambda": {"low": 0.5, "high": 2}}
    space = build_space(parsed(over, {"method": "della", "lambda": 1.5}))
    assert space.own == {"epsilon": 0.1, "normalize": True, "lambda": 1.5}
    assert space.settings["normalize"] == ChoiceSet((True, False))
    assert describe_space(parsed(over, {"method": "della"}), space).endswith("; every trial reads the models anew")
    combined = parsed({"normalize": [True, False], "lambda": {"low": 0.5, "high": 2}})
    assert describe_space(combined, build_space(combined)) == (
        "5 dimensions: ja [0, 1], math [0, 1], code [0, 1], normalize true, false, lambda [0.5, 2]; "
        "vectors are prepared once"
    )


def test_whole_numbers_are_a_range_in_steps_of_one() -> None:
    space = build_space(parsed({"agreement": {"low": 1, "high": 3, "step": 1}}, {"method": "tall_mask"}))
    assert space.settings == {"agreement": NumberRange(1, 3, 1)}
    config = apply_settings(parsed({}, {"method": "tall_mask"}), {"agreement": 3.0})
    assert MergeRecipe.from_config(config.merge).method.options["agreement"] == 3


def test_settings_go_where_the_merge_reads_them() -> None:
    config = apply_settings(parsed({}, OBIM), {"ratio.ja": 0.25, "order": ("ja", "code", "math"), "lambda": 0.5})
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
    assert recipe.method.compute_ratios(["ja", "math"]) == {"ja": 0.25, "math": 0.5}
    assert recipe.method.options["order"] == ("ja", "code", "math")
    assert recipe.scale == 0.5
    assert read_own_settings(config, ["lambda", "order"]) == {"lambda": 0.5, "order": ("ja", "code", "math")}
    pair = {"intra": {"rule": "band", "gamma": 0.1}, "inter": "disjoint_mean"}
    changed = apply_settings(parsed({}, pair), {"density": 0.4, "normalize": False}).merge
    assert changed.intra == {"rule": "band", "gamma": 0.1, "density": 0.4}
    assert changed.inter == {"rule": "disjoint_mean", "normalize": False}


def test_the_file_reads_back() -> None:
    config = parsed({"ratio": STEPS, "order": ["rotation", ["ja", "math", "code"]], "weights": False}, OBIM)
    assert parse_config(as_yaml_values(config), where="file.yaml", folder=HERE) == config


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"densty": {"low": 0, "high": 1}},
        {"method": "ties"},
        "search.over.densty: ties has no option 'densty'. It takes: density, ",
    ),
    (
        {"density": {"low": 0.1, "high": 1.5}},
        {"method": "ties"},
        "search.over.density: Input should be less than or equal to 1, found 1.5. It is an option of ties.",
    ),
    (
        {"density": {"low": 0, "high": 1}},
        {"method": "ties"},
        "search.over.density: Input should be greater than 0, found 0.0. It is an option of ties.",
    ),
    (
        {"density": {"low": 0.5, "high": 0.5}},
        {"method": "ties"},
        "search.over.density: expected low < high, found low 0.5 and high 0.5. Correct one of them.",
    ),
    (
        {"density": {"low": 0.5, "high": 0.6, "step": 0.2}},
        {"method": "ties"},
        "search.over.density.step: expected at most high - low = 0.1, found 0.2. Lower it.",
    ),
    (
        {"density": {"low": 0.5}},
        {"method": "ties"},
        "search.over.density: has no `low` and `high`. Give both, or a list",
    ),
    ({"density": []}, {"method": "ties"}, "search.over.density: has no choices. List at least one."),
    (
        {"density": {"low": 0.1, "high": 0.2, "choices": [0.1]}},
        {"method": "ties"},
        "search.over.density: has a range and choices. Give `low` and `high`, or a list of choices.",
    ),
    ({"normalize": ["x"]}, {"method": "ties"}, "search.over.normalize: Input should be a valid boolean, "),
    (
        {"normalize": {"low": 0, "high": 1, "each": True}},
        {},
        "search.over.normalize.each: holds for `density` and `ratio`",
    ),
    (
        {"ratio": STEPS},
        {"method": "ties"},
        "search.over.ratio: ties has no use for it. Remove it, or choose another method.",
    ),
    ({"ratio": {"low": 0, "high": 0.5}}, OBIM, "search.over.ratio: expected numbers above 0 and at most 1, found 0.0."),
    (
        {"ratio": [0.1, 0.2]},
        OBIM,
        "search.over.ratio: is a list of choices. Give `low` and `high`, perhaps with `step`.",
    ),
    (
        {"density": {"low": 0.1, "high": 0.5}},
        OBIM,
        "search.over.density: ratios sum to 1.5 (ja 0.5, math 0.5, code 0.5). Lower `ratio` of the vectors,",
    ),
    (
        {"order": ["rotation", ["ja", "maths", "code"]]},
        OBIM,
        "search.over.order: there is no vector 'maths' (ja, math, code). Name each vector once, or `rotation`.",
    ),
    ({"order": [["ja", "math"]]}, OBIM, "search.over.order: names ja, math, not every vector (ja, math, code)."),
    (
        {"order": ["rotaton"]},
        OBIM,
        "search.over.order: there is no order 'rotaton'. There are: rotation, first, last, and",
    ),
    (
        {"order": {"low": 0, "high": 1}},
        OBIM,
        "search.over.order: is no list of choices. List orders: rotation, first, last",
    ),
    ({"order": ["rotation"]}, {"method": "ties"}, "search.over.order: ties has no option 'order'. It takes: density, "),
    (
        {"agreement": {"low": 1, "high": 3}},
        {"method": "tall_mask"},
        "search.over.agreement: Input should be a valid integer, got a number with a fractional part, found 1.764.",
    ),
    ({"weights": False}, {}, "search.over.weights: false leaves nothing to search. Name a setting to search, or leave"),
    ({"seed": [1, 2]}, {}, "search.over.seed: is no option of a method. Search options of the method, `lambda`, "),
    ({"method": ["ties"]}, {}, "search.over.method: is no option of a method."),
    (
        {"lambda": {"low": 0.5, "high": 2}},
        {"method": "linear"},
        "search.over.lambda: linear has no vector to scale. Remove",
    ),
    (
        {"densty": [0.1]},
        {"intra": "magnitude", "inter": "sum"},
        "search.over.densty: magnitude has no option 'densty'. It takes: density, scope.",
    ),
]


@pytest.mark.parametrize(("over", "merge", "message"), REFUSED)
def test_what_does_not_fit_is_refused(over: dict[str, Any], merge: dict[str, Any], message: str) -> None:
    with pytest.raises(AftermixError) as raised:
        build_space(parsed(over, merge))
    assert message in str(raised.value)


def test_faults_are_told_together_and_once() -> None:
    with pytest.raises(AftermixError) as raised:
        build_space(parsed({"densty": [0.1, 0.2], "ratio": STEPS, "scope": ["tensor", "layer"]}))
    assert [problem.where for problem in raised.value.problems] == [
        "search.over.densty",
        "search.over.ratio",
        "search.over.scope",
    ]


def test_a_density_for_all_and_one_of_a_vectors_own_do_not_go_together() -> None:
    with pytest.raises(AftermixError, match="vector 'math' has a density of its own. Remove it there, or search a"):
        build_space(parsed({"density": {"low": 0.1, "high": 0.9}}, math={"density": 0.5}))


def test_the_file_itself_refuses_what_is_no_dimension() -> None:
    for over, message in [
        (
            {"density": {"lo": 1}},
            "search.over.density.lo: is not a known key. This section takes: low, high, step, each,",
        ),
        ({"density": 3}, "search.over.density: Input should be a valid dictionary or instance of Dimension, found 3"),
        ({"order": [["ja", 3]]}, "search.over.order.choices.0: a choice is a number, a text, true, false, or a list"),
        ({"density": {"low": 0.1, "high": float("inf")}}, "search.over.density.high: Input should be a finite number"),
    ]:
        with pytest.raises(AftermixError) as raised:
            parsed(over)
        assert message in str(raised.value)


@pytest.mark.parametrize(
    ("merge", "names", "once"),
    [
        ({"method": "ties"}, [], True),
        ({"method": "ties"}, ["normalize", "lambda"], True),
        ({"method": "ties"}, ["normalize", "density"], False),
        ({"method": "ties"}, ["density.ja"], False),
        ({"method": "tall_mask"}, ["lam", "agreement"], True),
        (OBIM, ["lambda"], True),
        (OBIM, ["order"], False),
        (OBIM, ["ratio.ja"], False),
        ({"method": "karcher"}, ["tolerance"], True),
        ({"method": "model_stock"}, ["filter_wise"], False),
    ],
)
def test_vectors_are_prepared_once_where_a_setting_does_not_change_what_they_keep(
    merge: dict[str, Any], names: list[str], once: bool
) -> None:
    method = MergeRecipe.from_config(parsed({}, merge).merge).method
    assert set(names) - {"lambda", "density.ja", "ratio.ja"} <= set(method.options)
    assert leaves_vectors_as_they_are(method, names) is once
