"""Weights of a search that depend on the place: their names, their space, and the vectors' weights that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, VectorConfig, parse_config
from aftermix.config.file import as_yaml_values
from aftermix.config.places import PlaceRule, dump_weight, list_dimensions, place_weights
from aftermix.errors import AftermixError
from aftermix.jobs.compare.rival_plans import plan_rivals
from aftermix.jobs.merge.given_weights import read_given_weights
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.search.named_weights import complete_point, refuse_released
from aftermix.jobs.search.result import _compute_ratios
from aftermix.jobs.search.space_from_config import build_space
from aftermix.merging.rules.places import refuse_unfit_patterns
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.search.priors import list_prior_points
from aftermix.search.proposing.response_fit import build_coordinates
from aftermix.search.space import SearchSpace

RULES = [
    {"match": "self_attn", "value": 0.3},
    {"match": ["mlp.up", "mlp.down"], "value": [0.2, 0.8]},
    {"value": [0, 1]},
]
NAMES = ["ja/self_attn", "ja/mlp.up+mlp.down", "ja/else"]


def read(*, rules: Any = RULES, **sections: Any) -> Config:
    values = {
        "base": "b",
        "vectors": {"it": {"model": "i", "role": "instruction"}, "ja": {"model": "j", "range": rules}},
    }
    return parse_config(values | sections, where="job.yaml", folder=Path("/"))


def refuse(action: Any) -> str:
    with pytest.raises(AftermixError) as error:
        action()
    return str(error.value)


def test_each_rule_is_a_weight_with_a_name_of_its_own() -> None:
    space = build_space(read())
    assert space.bounds == {"it": (0.3, 1), NAMES[0]: (0.3, 0.3), NAMES[1]: (0.2, 0.8), NAMES[2]: (0, 1)}
    assert (space.instruction, space.experts, space.dimensions) == (("it",), ("ja",), 3)
    assert space.searched_weights == ("it", *NAMES[1:])
    again = parse_config(as_yaml_values(read()), where="config.yaml", folder=Path("/"))
    assert build_space(again) == space

    twice = [{"match": "a b,c=d/e", "value": [0, 1]}, {"value": 0.5}, {"value": [0, 2]}]
    assert list(build_space(read(rules=twice)).bounds) == ["it", "ja/a_b_c_d_e", "ja/else/2", "ja/else/3"]


def test_weights_of_rules_become_rules_of_the_vectors_weight() -> None:
    vectors = read().vectors
    placed = place_weights(vectors, {"it": 0.6, NAMES[0]: 0.3, NAMES[1]: 0.25, NAMES[2]: 1.0})
    assert placed["it"] == 0.6
    assert dump_weight(placed["ja"]) == [
        {"match": "self_attn", "value": 0.3},
        {"match": ["mlp.up", "mlp.down"], "value": 0.25},
        {"value": 1.0},
    ]
    # A merge that names the vector itself has one number, and one that leaves it out none.
    assert place_weights(vectors, {"ja": 0.5}) == {"ja": 0.5}
    assert [dimension.vector for dimension in list_dimensions(vectors).values()] == ["it", "ja", "ja", "ja"]


def test_priors_give_all_rules_of_a_vector_its_own_weight() -> None:
    points = list_prior_points(build_space(read()))
    assert points[0] == {"it": 0.6, NAMES[0]: 0.3, NAMES[1]: 0.3, NAMES[2]: 0.3}
    assert points[-1] == {"it": 0.6, NAMES[0]: 0.3, NAMES[1]: 0.8, NAMES[2]: 1.0}


def test_coordinates_of_a_mean_are_the_weights_themselves() -> None:
    coordinates = build_coordinates(build_space(read()), normalised=True)
    assert (coordinates.placed, coordinates.dimensions) == (True, 3)
    point = {"it": 0.6, NAMES[0]: 0.3, NAMES[1]: 0.2, NAMES[2]: 1.0}
    assert coordinates.locate([point]).numbers_ND.tolist() == [[0.6, 0.2, 1.0]]
    assert MergeCoordinates(("a",), normalised=True).dimensions == 2


def test_a_person_names_a_rule_or_the_whole_vector() -> None:
    space = build_space(read())
    assert complete_point({"ja": 0.5, NAMES[2]: 1.0} | {"it": 0.4}, space) == {
        "it": 0.4, NAMES[0]: 0.5, NAMES[1]: 0.5, NAMES[2]: 1.0,
    }  # fmt: skip
    assert "found 'ja/mlp'" in refuse(lambda: complete_point({"ja/mlp": 0.5}, space))


def test_what_a_range_holds_need_not_be_named_and_is_predicted_nowhere_else() -> None:
    space = build_space(read())
    held = complete_point({NAMES[1]: 0.5}, space)
    assert held == {"it": 0.0, NAMES[0]: 0.3, NAMES[1]: 0.5, NAMES[2]: 0.0}
    refuse_released(held, space)
    assert refuse(lambda: refuse_released(complete_point({"ja": 0.5}, space), space)) == (
        "--weights: expected 0.3, at which every merge of the run has 'ja/self_attn', found 0.5. Leave it out; of a "
        "vector with rules, name the others."
    )


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([{"match": "mlp", "value": [0.8, 0.2]}], "range must be [low, high] with low <= high, found [0.8, 0.2]"),
        ([{"match": "mlp", "value": [0.1, 0.2, 0.3]}], "at most 2 items"),
        ([{"match": "mlp"}], "vectors.ja.range.0.value: "),
        ([{"match": "mlp", "value": 0.5, "weight": 1}], "vectors.ja.range.0.weight: is not a known key"),
    ],
)
def test_a_rule_that_is_none_is_refused(rules: Any, text: str) -> None:
    assert text in refuse(lambda: read(rules=rules))


def test_a_weight_beside_rules_lies_between_their_ends() -> None:
    assert VectorConfig(model="j", range=RULES, weight=0.9).bounds == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"weight must lie within range \[0, 1\], found 1.5"):
        VectorConfig(model="j", range=RULES, weight=[PlaceRule(match="mlp", value=1.5), PlaceRule(value=0.5)])


def test_who_takes_one_weight_refuses_rules() -> None:
    merged = refuse(lambda: read_given_weights(read()))
    assert "has a range, self_attn 0.3, mlp.up or mlp.down [0.2, 0.8], else [0, 1], and no weight" in merged
    mixture = read(mixture={}, evaluate={"tasks": ["t"]})
    assert "vectors.ja.range: depends on the place, and a mixture gives one weight to a vector" in refuse(
        lambda: MixtureProblem.build_flat(mixture)
    )
    fixed = [{"value": 0.5}]
    space = refuse(lambda: build_space(read(rules=fixed, vectors={"ja": {"model": "j", "range": fixed}})))
    assert "every range holds its weight fixed (ja/else at 0.5)" in space


def test_no_ratio_follows_from_weights_by_place() -> None:
    ratios, note = _compute_ratios(read(), {})
    assert ratios is None
    assert note == "The weight of ja depends on the place, so no data ratio follows from the weights."
    compared = {"all": {"train": {"ratios": "found"}}}
    file = read(compare=compared, evaluate={"tasks": ["t"]}, train={"datasets": {"ja": {"data": "x"}}})
    assert "asks for the ratios found, and the weight of 'ja' depends on the place" in refuse(lambda: plan_rivals(file))


def test_rules_and_tensors_need_each_other() -> None:
    names = ["h.0.self_attn.q", "h.0.mlp.up"]
    refuse_unfit_patterns([("self_attn",), None], names, where="here")
    assert refuse(lambda: refuse_unfit_patterns([("self_attn",)], names, where="here")).startswith(
        "here: no rule fits the tensor 'h.0.mlp.up'"
    )
    hidden = refuse(lambda: refuse_unfit_patterns([("h.0",), ("mlp", "x"), None], names, where="here"))
    assert hidden.startswith("here: no tensor that the merge moves is left for 'mlp or x'")


def test_a_space_knows_the_vector_of_a_weight() -> None:
    assert SearchSpace({"a": (0, 1), "a/mlp": (0, 1)}, vectors={"a/mlp": "a"}).find_vector("a/mlp") == "a"
