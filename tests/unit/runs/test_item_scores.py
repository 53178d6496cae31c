"""Scores of items, of which some have none: means, differences, files and intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.errors import SearchError
from aftermix.runs.item_scores import (
    GroupScores,
    LeafShare,
    WeightedScores,
    average,
    complete_scores,
    count_values,
    subtract_scores,
)
from aftermix.runs.journal import read_items_file, write_items
from aftermix.runs.trials import check_items
from aftermix.search.intervals import bootstrap_mean, bootstrap_task, subtract_items

VALUE = st.one_of(st.none(), st.floats(-2, 2))
SCORES = st.lists(VALUE, min_size=1, max_size=12).filter(lambda scores: any(score is not None for score in scores))
LEAVES = st.lists(st.tuples(st.lists(VALUE, max_size=6), st.floats(0.5, 3)), min_size=1, max_size=4).filter(
    lambda leaves: any(score is not None for scores, _ in leaves for score in scores)
)


def group(*leaves: tuple[list[float | None], float]) -> GroupScores:
    return GroupScores(
        [score for scores, _ in leaves for score in scores],
        [LeafShare(len(scores), weight) for scores, weight in leaves],
    )


@given(LEAVES)
def test_a_group_is_the_weighted_mean_of_the_means_of_its_leaves(
    leaves: list[tuple[list[float | None], float]],
) -> None:
    means = [
        (np.nanmean([x for x in scores if x is not None]), weight)
        for scores, weight in leaves
        if any(x is not None for x in scores)
    ]
    expected = sum(weight * mean for mean, weight in means) / sum(weight for _, weight in means)
    assert average(group(*leaves)) == pytest.approx(expected, abs=1e-12)


def weigh(pairs: list[tuple[float | None, float]]) -> WeightedScores:
    return WeightedScores([score for score, _ in pairs], [weight for _, weight in pairs])


WEIGHED = st.lists(st.tuples(VALUE, st.floats(1, 1000)), min_size=1, max_size=12).filter(
    lambda pairs: any(score is not None for score, _ in pairs)
)


@given(WEIGHED)
def test_weighted_items_are_a_ratio_of_sums(pairs: list[tuple[float | None, float]]) -> None:
    sums = np.sum([(score * weight, weight) for score, weight in pairs if score is not None], axis=0)
    assert average(weigh(pairs)) == pytest.approx(sums[0] / sums[1], abs=1e-9)


@given(WEIGHED)
def test_completed_weighted_scores_vary_as_the_ratio_does(pairs: list[tuple[float | None, float]]) -> None:
    """Their variance over drawn items is that of the linearised ratio: `sum (w (x - mean))^2 / (sum w)^2`."""
    scores, (values, weights) = weigh(pairs), np.array([(x or 0.0, w * (x is not None)) for x, w in pairs]).T
    mean, completed = average(scores), np.array(complete_scores(scores))
    assert completed.mean() == pytest.approx(mean, abs=1e-9)
    expected = ((weights * (values - mean)) ** 2).sum() / weights.sum() ** 2
    assert ((completed - completed.mean()) ** 2).sum() / len(pairs) ** 2 == pytest.approx(expected, abs=1e-9)


def test_a_difference_of_weighted_scores_keeps_the_weights() -> None:
    ours, theirs = weigh([(-1.0, 100), (-0.5, 300), (None, 50)]), weigh([(-2.0, 100), (-0.5, 300), (None, 50)])
    difference = subtract_items({"wiki": ours}, {"wiki": theirs})["wiki"]
    assert isinstance(difference, WeightedScores)
    assert (list(difference), difference.weights) == ([1.0, 0.0, None], (100.0, 300.0, 0.0))
    assert average(difference) == 0.25 == average(ours) - average(theirs)


def test_an_interval_of_weighted_items_draws_documents_with_their_bytes() -> None:
    """Against a slow loop over draws of documents, each a sum of bits over a sum of bytes."""
    rng = np.random.default_rng(3)
    sizes, rates = rng.lognormal(5, 1, 40), rng.normal(-1, 0.2, 40)
    found = bootstrap_task(WeightedScores(rates.tolist(), sizes.tolist()), seed=0, task="wiki")
    drawn = [rng.integers(0, 40, 40) for _ in range(4000)]
    ratios = [(sizes[each] * rates[each]).sum() / sizes[each].sum() for each in drawn]
    assert found == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.01)
    assert bootstrap_task(weigh([(-1.0, 10), (-1.0, 500)]), seed=0, task="wiki") == (-1.0, -1.0)


def test_an_item_with_a_score_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="an item that has a score has no weight above 0"):
        WeightedScores([-1.0, -0.5], [100, 0])


@given(st.one_of(SCORES, LEAVES.map(lambda leaves: group(*leaves))))
def test_completed_scores_have_the_same_mean(scores: list[float | None]) -> None:
    assert np.mean(complete_scores(scores)) == pytest.approx(average(scores), abs=1e-9)


@given(st.lists(st.tuples(VALUE, VALUE), min_size=2, max_size=12))
def test_the_mean_difference_is_the_difference_of_the_means(pairs: list[tuple[float | None, float | None]]) -> None:
    ours, theirs = [mine for mine, _ in pairs], [other for _, other in pairs]
    if not count_values(ours) or not count_values(theirs):
        return
    assert average(subtract_scores(ours, theirs)) == pytest.approx(average(ours) - average(theirs), abs=1e-9)


def test_a_difference_of_groups_keeps_the_leaves() -> None:
    ours, theirs = group(([1.0, 0.0, None], 1.0), ([1.0], 1.0)), group(([0.0, 0.0, None], 1.0), ([0.0], 1.0))
    difference = subtract_items({"duo": ours}, {"duo": theirs})["duo"]
    assert isinstance(difference, GroupScores)
    assert list(difference) == [1.0, 0.0, None, 1.0]
    assert average(difference) == 0.75


def test_a_group_whose_leaves_have_other_numbers_of_items_is_no_group() -> None:
    with pytest.raises(ValueError, match="the leaves have 3 items, not 2"):
        GroupScores([1.0, 0.0], [LeafShare(3, 1.0)])


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    items = {
        "wiki": weigh([(-1.0, 100), (None, 7)]),
        "plain": [1.0, 0.5],
        "partial": [None, 0.25, None],
        "duo": group(([1.0, None], 1.0), ([0.0], 2.0)),
    }
    write_items(tmp_path / "00000.json", items)
    stored = read_items_file(tmp_path / "00000.json")
    assert stored == items
    assert stored["duo"].leaves == items["duo"].leaves  # type: ignore[attr-defined]
    assert average(stored["duo"]) == pytest.approx(1 / 3)
    assert stored["wiki"].weights == (100.0, 0.0)  # type: ignore[attr-defined]


def test_a_file_of_an_earlier_version_is_a_list_for_each_task(tmp_path: Path) -> None:
    (tmp_path / "00000.json").write_text('{"ja": [1.0, 0.0, 0.5]}\n')
    assert read_items_file(tmp_path / "00000.json") == {"ja": [1.0, 0.0, 0.5]}
    write_items(tmp_path / "00001.json", {"ja": [1.0, 0.0]})
    assert (tmp_path / "00001.json").read_text() == '{\n  "ja": [\n    1.0,\n    0.0\n  ]\n}\n'


@pytest.mark.parametrize(
    "content",
    [
        '{"ja": [1.0, NaN]}',
        '{"ja": ["1"]}',
        '{"duo": {"scores": [1.0], "leaves": [[2, 1.0]]}}',
        '{"wiki": {"scores": [1.0, -1.0], "weights": [1.0]}}',
        '{"wiki": {"scores": [1.0], "weights": [0.0]}}',
        "{",
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "00000.json").write_text(content)
    with pytest.raises(SearchError, match="expected item scores, found .*Restore the file from a backup"):
        read_items_file(tmp_path / "00000.json")


def test_a_task_of_which_no_item_has_a_value_is_refused() -> None:
    with pytest.raises(SearchError, match="expected item scores of task 'hard', found none"):
        check_items({"hard": [None, None]}, tasks=["hard"], where="trial 3")


def test_an_interval_is_of_the_items_that_have_a_value() -> None:
    valued = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert bootstrap_task([None, *valued, None], seed=0, task="hard") == bootstrap_task(valued, seed=0, task="hard")


def test_an_interval_of_a_group_draws_within_its_leaves() -> None:
    """A leaf of equal scores adds no width, however much it differs from the other."""
    duo = group(([1.0, 0.0, 1.0, 0.0], 1.0), ([9.0, 9.0], 1.0))
    low, high = bootstrap_mean({"duo": duo}, weights={"duo": 1.0}, seed=0)
    alone = bootstrap_mean({"duo": [1.0, 0.0, 1.0, 0.0]}, weights={"duo": 0.5}, seed=0)
    assert (low, high) == pytest.approx((4.5 + alone[0], 4.5 + alone[1]))
