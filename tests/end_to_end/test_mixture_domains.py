"""`aftermix mixture --from`: domains that come, go or are split, flat and in a tree; no known merge is run again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.plan.command import plan
from conftest import make_family

Family = Mapping[str, Path]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A base and experts a to e."""
    return make_family(tmp_path_factory.mktemp("wide"), experts=tuple("abcde"))


def write_file(folder: Path, wide: Family, tasks: Path, vectors: Mapping[str, str] | str, **asked: Any) -> Path:
    """A mixture of experts, by name the model of the family."""
    models = vectors if isinstance(vectors, Mapping) else {name: name for name in vectors}
    values = {
        "base": str(wide["base"]),
        "vectors": {name: {"model": str(wide[model])} for name, model in models.items()},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 20, "select": 20},
            "threads": 1,
        },
        "mixture": {"points": 8, "repeats": 0, "verify": 0, **asked},
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


def trials_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, wide: Family, tasks: Path) -> Path:
    """Eight points of b and c."""
    folder = tmp_path_factory.mktemp("first")
    return mixture(load_config(write_file(folder, wide, tasks, "bc")), folder / "run")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Splits of the merges that are measured, in order."""
    splits, real = list[str](), MergeEvaluator.evaluate

    def measure(self: MergeEvaluator, point: Any, split: Any) -> Any:
        splits.append(split)
        return real(self, point, split)

    monkeypatch.setattr(MergeEvaluator, "evaluate", measure)
    return splits


def test_a_new_domain_reuses_every_earlier_merge_and_goes_on_after_an_interruption(
    finished: Path,
    tmp_path: Path,
    wide: Family,
    tasks: Path,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    shown: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, run = load_config(write_file(tmp_path, wide, tasks, "bdc", points=12)), tmp_path / "run"
    real, planned = MergeEvaluator.evaluate, plan(config, source=finished)
    assert planned.earlier == f"8 merges of {finished} are not run again"

    def measure(self: MergeEvaluator, point: Any, split: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(self, point, split)

    with monkeypatch.context() as patched:
        patched.setattr(MergeEvaluator, "evaluate", measure)
        with pytest.raises(KeyboardInterrupt):
            mixture(config, run, source=finished)
    told = "8 of 8 merges are points of this mixture and are not run again; of d they tell nothing"
    assert f"--from {finished}: {told}" in capsys.readouterr().err
    assert len(trials_of(run)) == 10

    mixture(config, run, resume=True)
    trials, old = trials_of(run), trials_of(finished)
    assert [trial["origin"] for trial in trials[:8]] == [f"run#{number}" for number in range(8)]
    for trial, before in zip(trials[:8], old, strict=True):
        assert trial["weights"] == {**before["weights"], "d": 0.0}
        assert trial["scores"] == before["scores"]

    # What is measured is the part of the design in which the new domain has a share.
    points = json.loads((run / "design.json").read_text())["points"]
    wanted = [point["shares"] for point in points if point["shares"]["d"] >= 1e-3]
    assert [trial["weights"] for trial in trials[8:]] == wanted
    assert measured.count("search") == len(wanted) == planned.measurements["search"] < 12
    assert (run / "items" / "search" / "00003.safetensors").is_file()
    assert json.loads((run / "best.json").read_text())["ratios"].keys() == {"b", "c", "d"}


@pytest.mark.whole
def test_a_split_domain_keeps_the_merges_without_it(
    finished: Path,
    tmp_path: Path,
    wide: Family,
    tasks: Path,
    shown: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of eight mixtures of b and c, b alone has none of c."""
    vectors = {"bee": "b", "c1": "d", "c2": "e"}
    run = mixture(load_config(write_file(tmp_path, wide, tasks, vectors)), tmp_path / "run", source=finished)
    first, *others = trials_of(run)
    assert (first["weights"], first["origin"]) == ({"bee": 1.0, "c1": 0.0, "c2": 0.0}, "run#1")
    assert len(others) == 7
    assert not any("#" in trial["origin"] for trial in others)
    told = capsys.readouterr().err
    assert "1 of 8 merges are points of this mixture and are not run again" in told
    assert "7 give a weight to 'c', which is no vector of this file; 'b' is 'bee' by now; of c1, c2 they tell" in told


@pytest.fixture(scope="module")
def of_colours(tmp_path_factory: pytest.TempPathFactory, wide: Family, tasks: Path) -> Path:
    """Eight points of b and c, measured on colours alone."""
    folder = tmp_path_factory.mktemp("colours")
    file = write_file(folder, wide, tasks, "bc")
    values = json.loads(file.read_text())
    values["evaluate"]["tasks"] = ["colours"]
    file.write_text(json.dumps(values))
    return mixture(load_config(file), folder / "run")


def test_merges_of_a_run_without_one_of_the_tasks_are_scored_on_it_alone(
    finished: Path,
    of_colours: Path,
    tmp_path: Path,
    wide: Family,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    shown: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, run = load_config(write_file(tmp_path, wide, tasks, "bc")), tmp_path / "run"
    use = "8 merges of {} are scored on 'numbers' alone (the run has not measured it)"
    planned, whole = plan(config, source=of_colours), plan(config)
    assert (planned.earlier, planned.rescored, planned.measurements["search"]) == (use.format(of_colours), 8, 0)
    assert 0 < planned.tokens["search"] < whole.tokens["search"]

    asked, real = list[Any](), MergeEvaluator.evaluate

    def measure(self: MergeEvaluator, point: Any, split: Any, places: Any = None) -> Any:
        if len(asked) == 3:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(places and {task: len(of_task) for task, of_task in places.items()})
        return real(self, point, split, places)

    monkeypatch.setattr(MergeEvaluator, "evaluate", measure)
    with pytest.raises(KeyboardInterrupt):
        mixture(config, run, source=of_colours)
    told = "8 of 8 merges are points of this mixture and are scored on 'numbers' alone (the run has not measured it)"
    assert f"--from {of_colours}: {told}" in capsys.readouterr().err
    assert not (run / "trials.jsonl").exists()
    assert len(trials_of(run / "reused")) == 3

    mixture(config, run, resume=True)
    assert [each for each in asked if each] == [{"colours": 0, "numbers": 20}] * 8

    # What comes out is what measuring all of it would have given, answers included.
    trials, old = trials_of(run), trials_of(finished)
    assert [trial["origin"] for trial in trials] == [f"run#{number}" for number in range(8)]
    for trial, alone in zip(trials, old, strict=True):
        assert (trial["weights"], trial["scores"]) == (alone["weights"], alone["scores"])
        assert trial["objective"] == alone["objective"]
        assert 0 < trial["tokens"] < alone["tokens"]
        items = f"items/search/{trial['number']:05d}"
        assert json.loads((run / f"{items}.json").read_text()) == json.loads((finished / f"{items}.json").read_text())
        ours, theirs = (load_file(each / f"{items}.safetensors") for each in (run, finished))
        assert ours.keys() == theirs.keys()
        assert all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)

    best = json.loads((run / "best.json").read_text())
    tokens = sum(trial["tokens"] for trial in trials)
    assert best["reused"] == {"merges": 8, "failed": 0, "tasks": ["numbers"], "tokens": tokens}
    assert best["points"] == {"measured": 8, "failed": 0}
    assert "reused" not in json.loads((finished / "best.json").read_text())
    assert "8 merges of an earlier run were scored on numbers alone" in (run / "report.html").read_text()


@pytest.mark.whole
def test_the_groups_of_a_tree_score_their_merges_on_it_and_leave_out_one_that_fails(
    of_colours: Path,
    tmp_path: Path,
    wide: Family,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    shown: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = {"tree": {"left": ["b", "c"], "d": None}, "direction": "bottom_up", "points": 5}
    real = MergeEvaluator.evaluate

    def measure(self: MergeEvaluator, point: Any, split: Any, places: Any = None) -> Any:
        if places is not None and point.weights["b"] == 1.0:
            raise ValueError("no number")
        return real(self, point, split, places)

    monkeypatch.setattr(MergeEvaluator, "evaluate", measure)
    run = mixture(load_config(write_file(tmp_path, wide, tasks, "bcd", **asked)), tmp_path / "run", source=of_colours)
    told = capsys.readouterr().err
    assert f"group 'left': 8 merges of {of_colours} are scored on 'numbers' alone (the run has not measured it)" in told
    assert "1 merge failed on numbers and is left out, the last with: ValueError: no number" in told

    left, whole = run / "levels" / "left", run / "levels" / "all"
    trials = trials_of(left)
    assert [trial["number"] for trial in trials] == list(range(7))
    assert {trial["origin"] for trial in trials} == {f"run#{number}" for number in range(8) if number != 1}
    assert all(trial["scores"].keys() == {"colours", "numbers"} for trial in trials)
    reused = {"merges": 7, "failed": 1, "tasks": ["numbers"], "tokens": sum(trial["tokens"] for trial in trials)}
    assert json.loads((left / "best.json").read_text())["reused"] == reused
    assert json.loads((run / "best.json").read_text())["reused"] == reused
    assert "reused" not in json.loads((whole / "best.json").read_text())


def test_of_a_run_all_of_whose_tasks_are_others_no_merge_is_taken_and_that_is_said(
    of_colours: Path,
    tmp_path: Path,
    wide: Family,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    shown: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, run = Path(shutil.copytree(of_colours, tmp_path / "before")), tmp_path / "run"
    lock = json.loads((source / "lock.json").read_text())
    lock["evaluation"]["tasks"]["colours"]["items"] = 7
    (source / "lock.json").write_text(json.dumps(lock))

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(MergeEvaluator, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        mixture(load_config(write_file(tmp_path, wide, tasks, "bc")), run, source=source)
    told = "'numbers': the run has not measured it), and no trial: the objective needs 'colours'"
    assert told in capsys.readouterr().err
    assert not (run / "trials.jsonl").exists()
    assert not (run / "reused").exists()


def test_a_run_without_a_merge_of_these_domains_is_refused(
    finished: Path, tmp_path: Path, wide: Family, tasks: Path
) -> None:
    config = load_config(write_file(tmp_path, wide, tasks, "de"))
    told = r"0 of 8 merges are points of this mixture and are not run again; . give a weight to 'b', which is no vector"
    with pytest.raises(AftermixError, match=told):
        mixture(config, tmp_path / "run", source=finished)
    assert not (tmp_path / "run").exists()


@pytest.mark.whole
def test_every_group_of_a_tree_takes_the_merges_that_are_its_points_and_goes_on_after_an_interruption(
    finished: Path,
    tmp_path: Path,
    wide: Family,
    tasks: Path,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {"tree": {"left": ["b", "c"], "d": None}, "direction": "bottom_up", "points": 5}
    config, run = load_config(write_file(tmp_path, wide, tasks, "bcd", **asked)), tmp_path / "run"
    real, planned = MergeEvaluator.evaluate, plan(config, source=finished)
    told = f"8 merges of {finished} are not run again, of left 8; of all it is known once shares of other groups"
    assert planned.earlier == f"{told} are found"
    assert planned.measurements["search"] == 5, "those of the whole"

    def measure(self: MergeEvaluator, point: Any, split: Any) -> Any:
        if measured.count("search") == 1:
            raise KeyboardInterrupt
        return real(self, point, split)

    with monkeypatch.context() as patched:
        patched.setattr(MergeEvaluator, "evaluate", measure)
        with pytest.raises(KeyboardInterrupt):
            mixture(config, run, source=finished)
    left, whole = run / "levels" / "left", run / "levels" / "all"
    assert [trial["origin"] for trial in trials_of(left)] == [f"run#{number}" for number in range(8)]
    assert measured[-1] == "search"

    mixture(config, run, resume=True)
    trials = trials_of(whole)
    assert len(trials) == 5
    assert not any("#" in trial["origin"] for trial in trials)
    assert measured.count("search") == 5

    # A tree is a source too: of each journal those merges that are points of a group.
    measured.clear()
    again = mixture(config, tmp_path / "again", source=run)
    origins = {trial["origin"] for trial in trials_of(again / "levels" / "left")}
    assert origins >= {f"run/levels/left#{number}" for number in range(8)}
    known = [trial["weights"] for folder in (left, whole) for trial in trials_of(folder)]
    new = [trial for trial in trials_of(again / "levels" / "all") if "#" not in trial["origin"]]
    assert not any(trial["weights"] in known for trial in new)
    assert measured.count("search") == len(new)
