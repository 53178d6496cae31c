"""The three-way split: disjoint, stratified, seeded, honest about small tasks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import ItemsConfig
from aftermix.errors import EvaluationError
from aftermix.evaluation.equal_items import EqualItems
from aftermix.evaluation.items import SPLITS, TaskItems, list_fixed_counts, split_items


def split(count: int, *, strata: int = 4, task: str = "t", **options: Any) -> TaskItems:
    items = ItemsConfig(**options)
    return split_items(
        {f"leaf/{n}": f"gold {n % strata}" for n in range(count)},
        task=task,
        items=items,
        fixed=list_fixed_counts(items),
    )


def sizes(parts: TaskItems) -> tuple[int, int, int]:
    return len(parts.search), len(parts.select), len(parts.test)


@given(
    count=st.integers(3, 300),
    strata=st.integers(1, 7),
    search=st.integers(1, 50),
    select=st.integers(1, 80),
    seed=st.integers(0, 5),
)
def test_parts_are_disjoint_ascending_and_stratified(
    count: int, strata: int, search: int, select: int, seed: int
) -> None:
    items = ItemsConfig(search=search, select=select, seed=seed)
    keys = {f"leaf/{n}": str(n % strata) for n in range(count)}
    parts = split_items(keys, task="t", items=items, fixed=frozenset())
    everything = [*parts.search, *parts.select, *parts.test]
    assert len(set(everything)) == len(everything) == count
    assert min(sizes(parts)) >= 1
    assert not parts.overlap
    for name in SPLITS:
        numbers = [int(item.rpartition("/")[2]) for item in parts.of(name)]
        assert numbers == sorted(numbers)
        held = Counter(keys[item] for item in parts.of(name))
        for stratum, total in Counter(keys.values()).items():
            share = total * len(numbers) / count
            assert abs(held[stratum] - share) <= 2 + 2 * strata * total / count


def test_the_default_is_100_300_and_the_rest() -> None:
    parts = split(1000)
    assert sizes(parts) == (100, 300, 600)
    assert parts.note is None
    assert Counter(int(item[5:]) % 4 for item in parts.search) == {0: 25, 1: 25, 2: 25, 3: 25}


def test_the_same_seed_gives_the_same_items_and_another_gives_others() -> None:
    assert split(200, seed=3, search=20, select=30) == split(200, seed=3, search=20, select=30)
    assert split(200, seed=3, search=20, select=30).search != split(200, seed=4, search=20, select=30).search
    assert split(200, search=20, select=30, task="a").search != split(200, search=20, select=30, task="b").search


def test_more_select_items_leave_the_search_items_as_they_are() -> None:
    assert split(200, search=20, select=30).search == split(200, search=20, select=90).search


def test_a_small_task_is_split_in_proportion_where_the_file_says_so() -> None:
    parts = split(164, small="proportion")
    assert sizes(parts) == (24, 70, 70)
    assert parts.note == "only 164 items, so they are split in proportion: search 24, select 70, test 70"
    assert sizes(split(500, small="proportion")) == (100, 300, 100)
    assert sizes(split(499, small="proportion")) == (71, 213, 215)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (3, (1, 1, 1)),
        (5, (2, 1, 2)),
        (40, (13, 13, 14)),
        (100, (33, 33, 34)),
        (164, (55, 54, 55)),
        (300, (100, 100, 100)),
        (350, (100, 150, 100)),
        (499, (100, 299, 100)),
    ],
)
def test_the_parts_of_a_small_task_grow_together_and_it_says_so(count: int, expected: tuple[int, int, int]) -> None:
    parts = split(count)
    assert sizes(parts) == expected
    told = "search {}, select {}, test {}".format(*expected)
    assert parts.note == f"only {count} items, fewer than the default counts need: {told}"
    assert split(count) == parts
    assert split(count, seed=0, small="even") == parts


def test_no_part_of_a_larger_task_is_smaller_and_large_ones_are_as_ever() -> None:
    before = sizes(split(3))
    for count in range(4, 720):
        found = sizes(split(count))
        assert all(map(int.__ge__, found, before)), count
        before = found
    for count in (500, 640, 2000):
        assert split(count) == split(count, small="proportion")


@pytest.mark.parametrize("stated", [{"search": 30}, {"select": 40}, {"test": 20}, {"test": "rest"}, {"search": 10}])
def test_a_file_that_states_a_count_is_split_as_ever(stated: dict[str, Any]) -> None:
    assert split(90, **stated) == split(90, small="proportion", **stated)
    assert "split in proportion" in (split(90, **stated).note or "split in proportion")


def test_the_scheme_of_the_paper_is_split_as_ever() -> None:
    assert split(164, scheme="first") == split(164, scheme="first", small="proportion")


def test_a_count_that_the_file_sets_stays_and_the_others_share_what_is_left() -> None:
    assert sizes(split(60, search=20)) == (20, 20, 20)
    assert sizes(split(45, search=20, select=24)) == (20, 24, 1)


def test_counts_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(EvaluationError) as error:
        split(40, search=20, select=20, task="gsm8k")
    assert str(error.value) == (
        "task 'gsm8k': asked for search 20, select 20, test rest items (disjoint), but it has 40. "
        "Lower `evaluate.items`, or leave its counts out to split small tasks in proportion."
    )
    with pytest.raises(EvaluationError, match="asked for search 10, select 10, test 30 items"):
        split(40, search=10, select=10, test=30)


def test_fewer_than_three_items_are_refused() -> None:
    with pytest.raises(
        EvaluationError, match="task 't': expected at least 3 usable items, found 2. Take another task."
    ):
        split(2)


def test_scheme_first_takes_the_first_items_which_overlap() -> None:
    parts = split(500, scheme="first")
    assert parts.search == tuple(f"leaf/{n}" for n in range(100))
    assert parts.select == tuple(f"leaf/{n}" for n in range(300))
    assert parts.test == tuple(f"leaf/{n}" for n in range(300, 500))
    assert parts.overlap


def test_scheme_first_takes_the_first_of_each_leaf_and_keeps_leaves_together() -> None:
    keys = {f"{leaf}/{n}": leaf for leaf in ("a", "b") for n in range(10)}
    items = ItemsConfig(scheme="first", search=4, select=6)
    parts = split_items(keys, task="t", items=items, fixed=list_fixed_counts(items))
    assert parts.search == ("a/0", "a/1", "b/0", "b/1")
    assert len(parts.test) == 14


def test_scheme_first_without_items_left_is_refused_or_shrunk() -> None:
    with pytest.raises(EvaluationError, match=r"test rest items \(first\), but it has 30"):
        split(30, scheme="first", search=10, select=30)
    assert sizes(split(164, scheme="first")) == (27, 82, 82)


def test_only_written_counts_are_fixed() -> None:
    assert list_fixed_counts(ItemsConfig()) == frozenset()
    assert list_fixed_counts(ItemsConfig(search=100, test="rest", seed=3)) == {"search"}


def test_the_rest_of_search_is_what_select_and_test_leave() -> None:
    parts = split(1000, search="rest", select=300, test=200)
    assert sizes(parts) == (500, 300, 200)
    assert parts.note is None
    assert set(parts.search).isdisjoint(parts.select)
    assert set(parts.search + parts.select).isdisjoint(parts.test)
    more = split(1400, search="rest", select=300, test=200)
    assert sizes(more) == (900, 300, 200)
    assert split(1000, search="rest", select=300, test=250).select == parts.select


@pytest.mark.parametrize(
    ("count", "asked", "expected"),
    [
        (501, {"select": 300, "test": 200}, (1, 300, 200)),  # both counts bind
        (300, {"test": 200}, (50, 50, 200)),  # the default of select shrinks
        (800, {"test": 200}, (300, 300, 200)),
        (799, {"test": 200}, (299, 300, 200)),
    ],
)
def test_a_rest_of_search_that_would_be_too_small_shrinks_what_the_file_left_out(
    count: int, asked: dict[str, int], expected: tuple[int, int, int]
) -> None:
    assert sizes(split(count, search="rest", **asked)) == expected


def test_counts_that_leave_nothing_to_search_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"asked for search rest, select 300, test 200 items \(disjoint\)"):
        split(500, search="rest", select=300, test=200)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"search": "rest"}, r"found `search: rest`, and `test` left out; give `test` a count, such as `test: 500`"),
        ({"search": "rest", "test": "rest"}, r"search or test is the rest, found both; give `test` a count"),
        ({"search": "rest", "test": 5, "scheme": "first"}, r"`search: rest` needs `scheme: disjoint`"),
    ],
)
def test_one_part_is_the_rest(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ItemsConfig(**options)


def test_equal_rows_stay_together_where_search_is_the_rest() -> None:
    keys = {f"leaf/{n}": "x" for n in range(60)}
    rows = {f"leaf/{n}": bytes([n // 5]) for n in range(30)}  # six rows, five times each
    items = ItemsConfig.model_validate({"search": "rest", "select": 13, "test": 12})
    parts = split_items(keys, task="t", items=items, fixed=list_fixed_counts(items), equal=EqualItems(rows))
    assert sizes(parts)[1:] <= (13, 12)
    assert sum(sizes(parts)) == 60
    for row in range(6):
        members = {item for item, value in rows.items() if value == bytes([row])}
        assert sum(bool(members & set(parts.of(split))) for split in ("search", "select", "test")) == 1
