"""A search whose first design finds nothing to choose by stops, and what was measured is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Objective, SearchConfig
from aftermix.errors import RunFailedError
from aftermix.runs import journal
from aftermix.runs.trials import ItemMeasurement, Point, Trial
from aftermix.search.space import SearchSpace
from aftermix.search.study import run_study

SPACE = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0)}, ("it",))
Score = Callable[[Point], dict[str, list[float | None]]]


def run(folder: Path, score: Score, *, calls: list[Point] | None = None, **settings: Any) -> list[Trial]:
    def measure(point: Point, split: str) -> ItemMeasurement:
        assert split == "search"
        if calls is not None:
            calls.append(point)
        return ItemMeasurement(score(point))

    config = SearchConfig(**{"trials": 9, "startup": 4, **settings})
    return run_study(folder, space=SPACE, config=config, tasks=["a", "b"], measure=measure)


def flat(point: Point) -> dict[str, list[float | None]]:
    return {"a": [0.0, 0.0, 0.0], "b": [1.0, None, 0.0]}


def test_it_stops_after_the_first_design_and_keeps_its_trials(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError) as error:
        run(tmp_path, flat)
    assert str(error.value) == (
        f"{tmp_path}: all 4 trials of the first design scored the same on every search item (a 0, b 0.5), so that no "
        "merge is better than another; the trials are kept. Look whether the answers and the metric of these tasks are "
        "right, take another metric, more `evaluate.items.search` or wider ranges, and start a new run with "
        "`aftermix search FILE -o NEW`."
    )
    assert error.value.exit_code == 1
    assert len(journal.read_trials(tmp_path)) == 4


def test_resumed_it_measures_nothing_more(tmp_path: Path) -> None:
    calls: list[Point] = []
    for _ in range(2):
        with pytest.raises(RunFailedError, match="all 4 trials of the first design scored the same"):
            run(tmp_path, flat, calls=calls)
    assert len(calls) == 4


@pytest.mark.parametrize(("trials", "startup", "ended"), [(6, 0, 4), (4, 4, 4), (7, 6, 6), (5, 20, 5)])
def test_a_design_is_no_longer_than_the_search_and_no_shorter_than_four(
    tmp_path: Path, trials: int, startup: int, ended: int
) -> None:
    with pytest.raises(RunFailedError, match=f"all {ended} trials of the first design"):
        run(tmp_path, flat, trials=trials, startup=startup)


@pytest.mark.parametrize(("trials", "startup"), [(1, 1), (3, 2), (2, 20)])
def test_fewer_trials_than_a_design_are_no_reason_to_stop(trials: int, startup: int, tmp_path: Path) -> None:
    assert len(run(tmp_path, flat, trials=trials, startup=startup)) == trials


def test_equal_means_of_other_items_are_no_reason_to_stop(tmp_path: Path) -> None:
    def swap(point: Point) -> dict[str, list[float | None]]:
        return {"a": [1.0, 0.0] if point.weights["it"] > 0.6 else [0.0, 1.0], "b": [0.5, 0.5]}

    assert len(run(tmp_path, swap)) == 9


def test_only_tasks_that_are_searched_for_are_looked_at(tmp_path: Path) -> None:
    def vary(point: Point) -> dict[str, list[float | None]]:
        return {"a": [0.0, 0.0], "b": [point.weights["it"], 0.0]}

    assert len(run(tmp_path / "both", vary)) == 9
    assert len(run(tmp_path / "floor", vary, objective=Objective(tasks={"a": 1}, floors={"b": 0.1}))) == 9
    two = [Objective(tasks={"a": 1}, name="a"), Objective(tasks={"b": 1}, name="b")]
    assert len(run(tmp_path / "two", vary, objective=two)) == 9
    with pytest.raises(RunFailedError, match=r"scored the same on every search item \(a 0\)"):
        run(tmp_path / "one", vary, objective=Objective(tasks={"a": 1}))
