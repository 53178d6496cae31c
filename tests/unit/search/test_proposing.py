"""Candidates and first designs of a search by response; paired errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.answers.requests import SplitRequests, TaskRequests
from aftermix.runs.item_scores import GroupScores, LeafShare
from aftermix.runs.trials import Trial
from aftermix.search.proposing.candidates import list_candidates, scatter_points
from aftermix.search.proposing.first_design import count_first_design, list_first_design
from aftermix.search.proposing.measured_tasks import build_measurements, compute_paired_error
from aftermix.search.proposing.response_fit import drop_jumps
from aftermix.search.space import ChoiceSet, NumberRange, SearchSpace

BOX = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0), "math": (-0.5, 0.5)}, instruction=("it",))
MIXED = SearchSpace(
    {"ja": (0.0, 1.0), "math": (0.2, 0.2)},
    settings={"density": NumberRange(0.1, 0.9, 0.2), "sign": ChoiceSet(("total", "majority", "none"))},
    own={"density": 0.5, "sign": "total"},
)


@pytest.mark.parametrize("space", [BOX, MIXED], ids=["weights", "settings"])
def test_scattered_points_lie_in_the_space_and_fill_it(space: SearchSpace) -> None:
    points = scatter_points(space, 256, seed=0, key="test")
    assert len(points) == 256
    assert all(space.contains(point.weights, point.settings) for point in points)
    for name in space.searched_weights:
        low, high = space.bounds[name]
        quarters = np.histogram([point.weights[name] for point in points], bins=4, range=(low, high))[0]
        assert quarters.min() >= 60  # a Sobol sequence has 64 in each
    assert scatter_points(space, 256, seed=0, key="test") == points
    assert scatter_points(space, 256, seed=1, key="test") != points


def test_every_choice_and_step_is_among_the_scattered() -> None:
    points = scatter_points(MIXED, 64, seed=0, key="test")
    assert {point.settings["sign"] for point in points} == {"total", "majority", "none"}
    assert {point.settings["density"] for point in points} == {0.1, 0.3, 0.5, 0.7, 0.9}


def test_candidates_crowd_about_the_good_ones() -> None:
    good = scatter_points(BOX, 2, seed=3, key="good")
    candidates = list_candidates(BOX, good, seed=0, number=4)
    near = [point for point in candidates if max(abs(point.weights[n] - good[0].weights[n]) for n in BOX.names) < 0.25]
    assert len(near) >= 128
    assert all(BOX.contains(point.weights, point.settings) for point in candidates)


@given(st.integers(1, 40), st.integers(0, 100))
def test_a_design_has_different_points_and_begins_with_the_base(count: int, seed: int) -> None:
    design = list_first_design(BOX, count, seed=seed)
    assert len(design) == count
    assert design[0].origin == "base"
    assert design[0].weights == {"it": 0.0, "ja": 0.0, "math": 0.0}
    assert len({tuple(suggestion.weights.items()) for suggestion in design}) == count
    assert all(BOX.admits(each.weights, each.settings, origin=each.origin) for each in design)
    assert list_first_design(BOX, count, seed=seed) == design


def test_a_design_sees_every_vector_alone_and_every_choice() -> None:
    singles = [each.weights for each in list_first_design(BOX, 12, seed=0) if each.origin == "single"]
    assert singles == [
        {"it": 1.0, "ja": 0.0, "math": 0.0},
        {"it": 0.0, "ja": 1.0, "math": 0.0},
        {"it": 0.0, "ja": 0.0, "math": 0.5},
    ]
    seen = {each.settings["sign"] for each in list_first_design(MIXED, 10, seed=0)}
    assert seen == {"total", "majority", "none"}


def test_a_design_without_axes_is_for_methods_that_jump_there() -> None:
    origins = {each.origin for each in list_first_design(BOX, 12, seed=0, with_axes=False)}
    assert origins == {"prior", "startup"}


@pytest.mark.parametrize(
    ("dimensions", "trials", "count"),
    [
        *((dimensions, 100, count) for dimensions, count in ((1, 8), (3, 8), (5, 12), (10, 22))),
        *((5, trials, count) for trials, count in ((30, 12), (20, 8), (12, 6), (10, 6), (1, 6))),
        (1, 5, 4),
    ],
)
def test_a_first_design_grows_with_the_dimensions_and_leaves_trials_to_propose(
    dimensions: int, trials: int, count: int
) -> None:
    space = SearchSpace({f"v{number}": (0.0, 1.0) for number in range(dimensions)})
    assert count_first_design(space, trials) == count


def test_a_short_design_has_two_unlike_priors_and_no_single_vector() -> None:
    design = list_first_design(BOX, 6, seed=0, is_short=True)
    assert [each.origin for each in design] == ["base", "prior", "prior", "startup", "startup", "startup"]
    assert [each.weights for each in design[1:3]] == [
        {"it": 0.6, "ja": 0.15, "math": 0.15},
        {"it": 0.6, "ja": 0.5, "math": 0.5},
    ]
    assert {each.origin for each in list_first_design(BOX, 6, seed=0, is_short=True, with_axes=False)} == {
        "prior",
        "startup",
    }
    seen = {each.settings["sign"] for each in list_first_design(MIXED, 6, seed=0, is_short=True)}
    assert seen == {"total", "majority", "none"}


def test_a_paired_error_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 2, 50).astype(float), rng.integers(0, 2, 50).astype(float)
    expected = (ours - theirs).std() / math.sqrt(50)
    error = compute_paired_error({"t": ours.tolist()}, {"t": theirs.tolist()}, {"t": 1.0})
    assert error == pytest.approx(expected)
    halved = compute_paired_error({"t": ours.tolist()}, {"t": theirs.tolist()}, {"t": 0.5})
    assert halved == pytest.approx(expected / 2)


def test_items_of_one_document_are_drawn_together() -> None:
    """Twice the items of the same documents tell no more."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 2, 50).astype(float), rng.integers(0, 2, 50).astype(float)
    once = compute_paired_error({"t": ours.tolist()}, {"t": theirs.tolist()}, {"t": 1.0})
    twice = {"t": [*ours.tolist(), *ours.tolist()]}, {"t": [*theirs.tolist(), *theirs.tolist()]}
    documents = {"t": np.concatenate([np.arange(50), np.arange(50)])}
    assert compute_paired_error(*twice, {"t": 1.0}, documents) == pytest.approx(once)
    assert compute_paired_error(*twice, {"t": 1.0}) == pytest.approx(once / math.sqrt(2))


@pytest.mark.parametrize(("documents", "expected"), [(None, [0, 1, 2]), ([0, 1, 0], [0, 1, 0])])
def test_the_response_is_told_which_items_are_of_one_document(documents: list[int] | None, expected: list[int]) -> None:
    lengths = np.full(6, 4, np.int32)
    told = None if documents is None else np.array(documents, np.int32)
    asked = SplitRequests(np.arange(0, 7, 2), np.zeros(3, np.int32), lengths, lengths, told)
    requests = TaskRequests("choice", "acc,none", None, {"search": asked})
    likelihood = np.zeros((2, 6), np.float32)
    measured = build_measurements(requests, "search", [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], likelihood)
    assert measured.documents_I.tolist() == expected


def test_leaves_of_a_group_count_by_their_weights() -> None:
    leaves = [LeafShare(2, 1.0), LeafShare(2, 3.0)]
    ours, theirs = GroupScores([1.0, 0.0, 1.0, 1.0], leaves), GroupScores([0.0, 0.0, 1.0, 0.0], leaves)
    shares, difference = np.array([0.125, 0.125, 0.375, 0.375]), np.array([1.0, 0.0, 0.0, 1.0])
    centred = difference - difference @ shares
    expected = math.sqrt(float((shares * centred) @ (shares * centred)))
    assert compute_paired_error({"g": ours}, {"g": theirs}, {"g": 1.0}) == pytest.approx(expected)


def test_merges_without_a_vector_are_left_out_where_weights_are_divided_by_their_sum() -> None:
    coordinates = MergeCoordinates(("ja", "math"), normalised=True)
    inner = [build_trial(number, 0.1 + 0.1 * number, 0.5) for number in range(4)]
    edges = [build_trial(8, 0.0, 1.0), build_trial(9, 1.0, 0.0)]
    assert drop_jumps([*inner, *edges], coordinates) == inner
    assert drop_jumps([*inner[:3], *edges], coordinates) == [*inner[:3], *edges]


def build_trial(number: int, ja: float, math_weight: float) -> Trial:
    return Trial(number=number, state="complete", weights={"ja": ja, "math": math_weight})
