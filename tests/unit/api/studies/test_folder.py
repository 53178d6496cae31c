"""A study with a folder goes on where it stopped, to the bit, and takes no folder that is not its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import aftermix
from aftermix.errors import AftermixError, SearchError

Family = Mapping[str, Path]


def score(weights: Mapping[str, float]) -> float:
    return -((weights["a"] - 0.6) ** 2) - (weights["b"] - 0.2) ** 2


def open_study(family: Family, output: Path | None, **options: Any) -> aftermix.Study:
    pool = aftermix.Pool(family["base"], {"a": family["a"], "b": family["b"]})
    given = {"ranges": {"b": (0.1, 0.9)}, "startup": 4, "seed": 1} | options
    return aftermix.Study(pool, output=output, **given)


def run_points(study: aftermix.Study, batches: int, size: int = 3) -> None:
    for _ in range(batches):
        for point in study.ask(size):
            study.tell(point.number, {"task": score(point.weights)})


def test_a_study_that_is_opened_again_goes_on_with_the_same_points(family: Family, tmp_path: Path) -> None:
    whole = open_study(family, None)
    run_points(whole, batches=4)

    # Stopped after each batch, and in the middle of one: what was asked for comes first, and then the next points.
    folder = tmp_path / "study"
    for _ in range(2):
        run_points(open_study(family, folder), batches=1)
    killed = open_study(family, folder)
    first, *left = killed.ask(3)
    killed.tell(first.number, {"task": score(first.weights)})

    again = open_study(family, folder)
    assert [(point.number, point.weights) for point in again.open] == [(point.number, point.weights) for point in left]
    assert [point.number for point in again.ask(1)] == [7]
    assert [point.number for point in again.ask(5)] == [8]
    for point in again.open:
        again.tell(point.number, {"task": score(point.weights)})
    run_points(open_study(family, folder), batches=1)
    assert open_study(family, folder).trials.equals(whole.trials)


def test_points_are_told_in_any_order_and_failures_are_kept(family: Family, tmp_path: Path) -> None:
    study = open_study(family, tmp_path / "study")
    first, second, third = study.ask(3)
    study.tell(third.number, {"task": [1.0, None, 0.0]})
    study.tell(first.number, None, error="out of memory")
    study.tell(second.number, {"task": [0.0, 1.0, 1.0]})

    again = open_study(family, tmp_path / "study")
    assert again.trials.equals(study.trials)
    assert again.trials["state"].tolist() == ["failed", "complete", "complete"]
    assert again.best is not None
    assert (again.best.number, again.best.values) == (1, (2 / 3,))
    with pytest.raises(SearchError, match=r"expected one of the open points \(none\), found 2"):
        again.tell(2, {"task": 0.5})


def test_two_studies_on_one_folder_see_each_other(family: Family, tmp_path: Path) -> None:
    one, other = (open_study(family, tmp_path / "study") for _ in range(2))
    (point,) = one.ask()
    other.tell(point.number, {"task": 0.5})
    (second,) = one.ask()
    assert (second.number, len(one.trials)) == (1, 1)


def test_what_a_killed_process_half_wrote_is_cut_off(family: Family, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    study = open_study(family, folder)
    points = study.ask(3)
    study.tell(0, {"task": 0.5})
    with (folder / "told.jsonl").open("ab") as file:
        file.write(b'{"number": 1, "sta')
    with (folder / "proposals.jsonl").open("ab") as file:
        file.write((folder / "proposals.jsonl").read_bytes().splitlines(keepends=True)[0].replace(b" 0,", b" 3,"))

    again = open_study(family, folder)
    assert [point.number for point in again.open] == [1, 2]
    assert again.open[0].weights == points[1].weights
    again.tell(1, {"task": 0.25})
    assert open_study(family, folder).trials["objective"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({"seed": 2}, "search.seed"),
        ({"ranges": {"b": (0.1, 0.8)}}, "vectors.b"),
        ({"method": "ties"}, "merge.method"),
        ({"strategy": "random"}, "search.strategy"),
    ],
)
def test_another_study_is_refused(family: Family, tmp_path: Path, options: dict[str, Any], differs: str) -> None:
    open_study(family, tmp_path / "study").ask(2)
    before = {file.name: file.read_bytes() for file in (tmp_path / "study").iterdir()}
    with pytest.raises(SearchError, match=rf"expected a study of the same arguments, found another in .*{differs}"):
        open_study(family, tmp_path / "study", **options)
    assert {file.name: file.read_bytes() for file in (tmp_path / "study").iterdir()} == before


def test_settings_that_decide_no_point_may_change(family: Family, tmp_path: Path) -> None:
    open_study(family, tmp_path / "study").ask(2)
    assert len(open_study(family, tmp_path / "study", trials=7, top=1).open) == 2


def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(family: Family, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("base: x\n")
    with pytest.raises(SearchError, match=r"run: expected the folder of a study, or none, found one without study"):
        open_study(family, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_a_damaged_line_is_named(family: Family, tmp_path: Path) -> None:
    study = open_study(family, tmp_path / "study")
    run_points(study, batches=1)
    told = tmp_path / "study" / "told.jsonl"
    told.write_bytes(told.read_bytes().replace(b'"state": "complete"', b'"state": "done"', 1))
    with pytest.raises(AftermixError, match=r"told\.jsonl, line 1: expected the record of a point"):
        open_study(family, tmp_path / "study")
