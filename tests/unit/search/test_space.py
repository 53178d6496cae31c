"""Ranges of merge weights and the points tried first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import VectorConfig
from aftermix.errors import SearchError
from aftermix.search.priors import list_prior_points
from aftermix.search.space import SearchSpace

INTERVAL = st.tuples(st.floats(-2, 2), st.floats(0.01, 2)).map(lambda pair: (pair[0], pair[0] + pair[1]))
SPACE = st.dictionaries(st.sampled_from("abcdef"), INTERVAL, min_size=1).flatmap(
    lambda bounds: st.sets(st.sampled_from(sorted(bounds))).map(lambda names: SearchSpace(bounds, tuple(sorted(names))))
)


def test_the_space_takes_ranges_and_roles_from_the_file():
    space = SearchSpace.from_vectors(
        {
            "it": VectorConfig(model="it", role="instruction"),
            "ja": VectorConfig(model="ja"),
            "en": VectorConfig(model="en", range=(-1.0, 1.0)),
        }
    )
    assert space.bounds == {"it": (0.3, 1.0), "ja": (0.0, 1.0), "en": (-1.0, 1.0)}
    assert space.names == ("it", "ja", "en")
    assert space.instruction == ("it",)
    assert space.experts == ("ja", "en")


def test_a_space_without_vectors_is_refused():
    with pytest.raises(SearchError, match="vectors: expected at least one vector to weigh, found none"):
        SearchSpace.from_vectors({})


def test_contains_needs_the_same_names_and_counts_both_ends():
    space = SearchSpace({"a": (-1.0, 1.0), "b": (0.0, 0.5)})
    assert space.contains({"a": -1.0, "b": 0.5})
    assert not space.contains({"a": -1.01, "b": 0.5})
    assert not space.contains({"a": 0.0})
    assert not space.contains({"a": 0.0, "b": 0.0, "c": 0.0})


def test_priors_with_one_instruction_vector_and_three_experts():
    space = SearchSpace({"it": (0.3, 1.0), "x": (0.0, 1.0), "y": (0.0, 1.0), "z": (0.0, 1.0)}, ("it",))
    assert list_prior_points(space) == [
        {"it": 0.6, "x": 0.3 / 3, "y": 0.3 / 3, "z": 0.3 / 3},
        {"it": 0.75, "x": 0.3 / 3, "y": 0.3 / 3, "z": 0.3 / 3},
        {"it": 0.9, "x": 0.3 / 3, "y": 0.3 / 3, "z": 0.3 / 3},
        {"it": 0.6, "x": 1 / 3, "y": 1 / 3, "z": 1 / 3},
        {"it": 0.6, "x": 1.0, "y": 0.0, "z": 0.0},
        {"it": 0.6, "x": 0.0, "y": 1.0, "z": 0.0},
        {"it": 0.6, "x": 0.0, "y": 0.0, "z": 1.0},
    ]


def test_priors_without_an_instruction_vector_scan_nothing():
    assert list_prior_points(SearchSpace({"x": (0.0, 1.0), "y": (0.0, 1.0)})) == [
        {"x": 0.15, "y": 0.15},
        {"x": 0.5, "y": 0.5},
        {"x": 1.0, "y": 0.0},
        {"x": 0.0, "y": 1.0},
    ]


def test_priors_of_several_instruction_vectors_share_the_weight():
    space = SearchSpace({"it": (0.0, 1.0), "chat": (0.0, 1.0), "x": (0.0, 1.0)}, ("it", "chat"))
    assert list_prior_points(space)[:2] == [{"it": 0.3, "chat": 0.3, "x": 0.3}, {"it": 0.375, "chat": 0.375, "x": 0.3}]


def test_priors_of_instruction_vectors_alone_are_the_scan():
    assert list_prior_points(SearchSpace({"it": (0.3, 1.0)}, ("it",))) == [{"it": 0.6}, {"it": 0.75}, {"it": 0.9}]


def test_priors_are_clipped_and_then_distinct():
    space = SearchSpace({"it": (0.2, 0.5), "x": (0.2, 0.4)}, ("it",))
    assert list_prior_points(space) == [{"it": 0.5, "x": 0.3}, {"it": 0.5, "x": 0.4}]


@given(SPACE)
def test_every_prior_lies_in_the_space_once(space):
    points = list_prior_points(space)
    assert points
    assert all(space.contains(point) for point in points)
    assert len({tuple(point.items()) for point in points}) == len(points)
