"""Points by batches: written whole before the first is measured, taken up by a resumed search, cut where a kill did."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import SearchConfig
from aftermix.errors import SearchError
from aftermix.runs import journal
from aftermix.runs.trials import ItemMeasurement, Measure, Point, ProposedPoint, Suggestion, Trial
from aftermix.search.batches import ProposeBatch
from aftermix.search.space import SearchSpace
from aftermix.search.study import run_study
from aftermix.search.warm_start import ImportedTrial

SPACE = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0)}, ("it",))


def measure(point: Point, split: str) -> ItemMeasurement:
    """Nine items, answered right where the instruction weight is near 0.7 enough."""
    distance = abs(point.weights["it"] - 0.7) + abs(point.weights["ja"] - 0.2)
    return ItemMeasurement({"a": [float(distance < 0.1 * place) for place in range(9)]})


def run(
    folder: Path,
    *,
    measured: Measure = measure,
    propose: ProposeBatch | None = None,
    imported: Sequence[ImportedTrial] = (),
    **settings: Any,
) -> list[Trial]:
    config = SearchConfig(**{"trials": 10, "startup": 4, **settings})
    return run_study(
        folder, space=SPACE, config=config, tasks=["a"], measure=measured, propose=propose, imported=imported
    )


def stop_at(call: int) -> Measure:
    """`measure`, which is interrupted at its call of that number, from 0."""
    calls = count()

    def measured(point: Point, split: str) -> ItemMeasurement:
        if next(calls) == call:
            raise KeyboardInterrupt
        return measure(point, split)

    return measured


def without_seconds(trials: Sequence[Trial]) -> list[Trial]:
    return [replace(trial, seconds={}) for trial in trials]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "proposals.jsonl").read_text().splitlines()]


def test_a_batch_is_whole_on_disk_before_its_first_point_is_measured(tmp_path: Path) -> None:
    known: list[int] = []

    def watch(point: Point, split: str) -> ItemMeasurement:
        known.append(len(lines_of(tmp_path)))
        return measure(point, split)

    trials = run(tmp_path, measured=watch)
    assert known == [4] * 4 + [8] * 4 + [12] * 2
    lines = lines_of(tmp_path)
    assert list(lines[0]) == ["number", "batch", "size", "strategy", "origin", "weights", "settings"]
    assert [(line["number"], line["batch"], line["size"]) for line in lines] == [(n, n // 4, 4) for n in range(12)]
    for trial, line in zip(trials, lines, strict=False):
        assert (trial.weights, trial.origin, trial.strategy) == (line["weights"], line["origin"], line["strategy"])
        assert (trial.batch, trial.worker, trial.attempt) == (line["batch"], 0, 1)
    assert {trial.strategy for trial in trials} == {"tpe"}
    keys = list(json.loads((tmp_path / "trials.jsonl").read_text().splitlines()[0]))
    assert keys[-5:] == ["origin", "strategy", "batch", "worker", "attempt"]


@pytest.mark.parametrize("settings", [{}, {"batch": 3}, {"preset": "paper"}, {"strategy": "random"}, {"batch": 20}])
def test_interrupted_at_any_point_it_gives_the_same_trials(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = run(tmp_path / "whole", **settings)
    for call in (0, 2, 0, 3, 1):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", measured=stop_at(call), **settings)
    assert without_seconds(run(tmp_path / "cut", **settings)) == without_seconds(whole)
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")


def test_a_batch_whose_write_was_cut_at_any_byte_is_proposed_again(tmp_path: Path) -> None:
    whole = run(tmp_path)
    trials, proposals = ((tmp_path / name).read_bytes() for name in ("trials.jsonl", "proposals.jsonl"))
    first = b"".join(proposals.splitlines(True)[:4])
    for length in range(len(first), len(b"".join(proposals.splitlines(True)[:8])), 97):
        (tmp_path / "trials.jsonl").write_bytes(b"".join(trials.splitlines(True)[:4]))
        (tmp_path / "proposals.jsonl").write_bytes(proposals[:length])
        assert [point.number for point in journal.read_proposals(tmp_path)] == [0, 1, 2, 3]
        assert without_seconds(run(tmp_path)) == without_seconds(whole)
        assert (tmp_path / "proposals.jsonl").read_bytes() == proposals


def test_the_open_points_are_taken_from_the_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, measured=stop_at(5))
    path = tmp_path / "proposals.jsonl"
    lines = lines_of(tmp_path)
    lines[6]["weights"] = {"it": 0.7, "ja": 0.25}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trials = run(tmp_path)
    assert trials[6].weights == {"it": 0.7, "ja": 0.25}
    assert [trial.batch for trial in trials] == [0] * 4 + [1] * 4 + [2] * 2

    lines[7]["weights"] = {"it": 0.2, "ja": 0.25}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    journal_lines = (tmp_path / "trials.jsonl").read_bytes().splitlines(True)
    (tmp_path / "trials.jsonl").write_bytes(b"".join(journal_lines[:6]))
    with pytest.raises(SearchError, match=r"proposals\.jsonl, point 7: expected a point within it \[0\.3, 1\]"):
        run(tmp_path)


@pytest.mark.parametrize("trials", [5, 6, 7, 8])
def test_a_longer_search_goes_on_with_the_batch_that_was_proposed(tmp_path: Path, trials: int) -> None:
    whole = run(tmp_path / "whole")
    assert len(run(tmp_path / "grown", trials=trials)) == trials
    assert without_seconds(run(tmp_path / "grown")) == without_seconds(whole)


def test_points_of_a_batch_differ_and_know_nothing_of_its_scores(tmp_path: Path) -> None:
    def invert(point: Point, split: str) -> ItemMeasurement:
        return ItemMeasurement({"a": [1 - float(score or 0) for score in measure(point, split).items["a"]]})

    one, other = run(tmp_path / "one", startup=4), run(tmp_path / "other", measured=invert, startup=4)
    assert [trial.weights for trial in one[:8]] != [trial.weights for trial in other[:8]]
    shared = run(tmp_path / "shared", startup=4, trials=4)
    for measured in (measure, invert):  # scores of the second batch do not move that batch
        folder = tmp_path / measured.__name__
        folder.mkdir()
        (folder / "trials.jsonl").write_bytes((tmp_path / "shared" / "trials.jsonl").read_bytes())
        (folder / "items").symlink_to(tmp_path / "shared" / "items")
        trials = run(folder, measured=measured, startup=4, trials=8)
        assert [trial.weights for trial in trials[4:]] == [trial.weights for trial in one[4:8]]
    points = [tuple(trial.weights.values()) for trial in one[4:8]]
    assert len(set(points)) == len(shared)


@pytest.mark.parametrize("startup", [1, 2, 5, 6, 8])
def test_a_start_up_is_as_long_as_the_file_says_whatever_the_batch(tmp_path: Path, startup: int) -> None:
    origins = [trial.origin for trial in run(tmp_path, startup=startup)]
    assert "sampler" not in origins[:startup]
    assert set(origins[startup:]) == {"sampler"}


def test_the_paper_preset_proposes_one_point_after_another(tmp_path: Path) -> None:
    four, one = (run(tmp_path / str(size), preset="paper", batch=size) for size in (4, 1))
    assert without_seconds(four) == without_seconds(one)
    assert [trial.batch for trial in four] == list(range(10))


def test_random_points_have_no_prior_and_know_no_scores(tmp_path: Path) -> None:
    trials = run(tmp_path / "a", strategy="random")
    assert {(trial.strategy, trial.origin) for trial in trials} == {("random", "random")}
    others = run(tmp_path / "b", strategy="random", batch=1, startup=0, seed=0)
    assert [trial.weights for trial in others] == [trial.weights for trial in trials]
    assert [trial.weights for trial in run(tmp_path / "c", strategy="random", seed=1)] != [t.weights for t in trials]


def test_a_run_that_began_without_proposals_goes_on_without(tmp_path: Path) -> None:
    alone = run(tmp_path / "one", batch=1)
    lines = (tmp_path / "one" / "trials.jsonl").read_text().splitlines()
    old = tmp_path / "old"
    old.mkdir()
    later = ("strategy", "batch", "worker", "attempt")
    texts = [json.dumps({key: held for key, held in json.loads(line).items() if key not in later}) for line in lines]
    (old / "trials.jsonl").write_text("".join(f"{text}\n" for text in texts[:5]))
    (old / "items").symlink_to(tmp_path / "one" / "items")
    trials = run(old)
    assert [trial.weights for trial in trials] == [trial.weights for trial in alone]
    assert not (old / "proposals.jsonl").exists()
    after = [json.loads(line) for line in (old / "trials.jsonl").read_text().splitlines()]
    assert {tuple(line) for line in after} == {tuple(json.loads(texts[0]))}


def test_imported_trials_stand_before_the_first_batch(tmp_path: Path) -> None:
    earlier = run(tmp_path / "earlier", trials=3)
    stored = [
        replace(trial, origin=f"earlier#{trial.number}", strategy=None, batch=None, worker=None, attempt=None)
        for trial in earlier
    ]
    source = tmp_path / "earlier"
    imported = [
        ImportedTrial(trial, journal.read_items(source, "search", trial.number), None, source, trial.number)
        for trial in stored
    ]
    trials = run(tmp_path / "later", imported=imported, trials=5)
    assert [trial.batch for trial in trials] == [None] * 3 + [0] * 4 + [1]
    assert [line["number"] for line in lines_of(tmp_path / "later")] == list(range(3, 11))
    assert "batch" not in json.loads((tmp_path / "later" / "trials.jsonl").read_text().splitlines()[0])


def test_a_design_of_any_size_is_one_batch(tmp_path: Path) -> None:
    sizes = {0: 5, 5: 2, 7: 3}

    def propose(trials: Sequence[Trial], wanted: int) -> list[Suggestion]:
        assert wanted == 4
        weights = [{"it": 0.5, "ja": (len(trials) + place) / 20} for place in range(sizes[len(trials)])]
        return [Suggestion(point, "grid", strategy="design") for point in weights]

    trials = run(tmp_path, propose=propose)
    assert [trial.batch for trial in trials] == [0] * 5 + [1] * 2 + [2] * 3
    assert {(trial.origin, trial.strategy) for trial in trials} == {("grid", "design")}


def write_points(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    points = [
        ProposedPoint(number=n, batch=n // 2, size=2, strategy="tpe", origin="startup", weights={"it": 0.5})
        for n in range(6)
    ]
    journal.append_batch(folder, points)
    lines = lines_of(folder)
    change(lines)
    (folder / "proposals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[2].pop("origin"), "line 3: expected the record of point 2, found origin: "),
        (lambda lines: lines[3].update(number=2), "line 4: expected point 3, found point 2"),
        (lambda lines: lines[0].update(weights={"it": "x"}), "line 1: expected the record of point 0, found weights: "),
        (lambda lines: lines[5].update(cost=1), "line 6: expected the record of point 5, found cost: expected no such"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], told: str) -> None:
    write_points(tmp_path, change)
    with pytest.raises(SearchError) as error:
        journal.read_proposals(tmp_path)
    assert told in str(error.value)
    assert "delete this line and all after it, and resume" in str(error.value)


@pytest.mark.parametrize(("ended", "opened", "kept"), [(0, [0, 1], 2), (1, [1], 2), (2, [2, 3], 4), (6, [], 6)])
def test_batches_after_the_open_one_are_forgotten(tmp_path: Path, ended: int, opened: list[int], kept: int) -> None:
    write_points(tmp_path, lambda lines: None)
    assert [point.number for point in journal.reopen_proposals(tmp_path, ended=ended)] == opened
    assert len(lines_of(tmp_path)) == kept


def test_lines_that_were_deleted_cost_no_trial(tmp_path: Path) -> None:
    run(tmp_path, trials=7)
    path = tmp_path / "proposals.jsonl"
    for kept in (5, 0):
        path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:kept]))
        assert len(run(tmp_path, trials=8 + (not kept))) == 8 + (not kept)
        journal.read_proposals(tmp_path)
