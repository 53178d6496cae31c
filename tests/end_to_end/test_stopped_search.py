"""A search or mixture that stops: exit code 1, what is kept, a command that goes on; refused: nothing written."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.merge.command import write_model
from aftermix.jobs.search import command as search_command
from conftest import run_cli

Family = Mapping[str, Path]
CHANGED = r"/b/model\.safetensors: has changed since it was opened\. Restore its content if that has changed"


@pytest.fixture
def world(tmp_path: Path, family: Family, tasks: Path) -> Path:
    """`search.yaml` over copies of the models that a test may change; `over` makes every trial read its inputs."""
    for name in ("base", "a", "b"):
        shutil.copytree(family[name], tmp_path / name)
    write_search(tmp_path, tasks)
    write_search(tmp_path, tasks, name="density", over={"density": {"low": 0.5, "high": 0.9}})
    return tmp_path


def write_search(folder: Path, tasks: Path, *, name: str = "search", **search: Any) -> Path:
    values = {
        "base": "base",
        "vectors": {"a": {"model": "a", "role": "instruction"}, "b": {"model": "b"}},
        "merge": {"method": "ties", "density": 0.8},
        "evaluate": {
            "tasks": ["colours"],
            "include_path": str(tasks),
            "items": {"search": 6, "select": 6},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 4, "startup": 2, "top": 2, "max_consecutive_failures": 2, **search},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(values))
    return path


def touch(file: Path) -> None:
    os.utime(file)


def read_trials(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def change_at(monkeypatch: pytest.MonkeyPatch, call: str, change: Callable[[], None]) -> None:
    """Let `change` happen at a measurement: "search 2" is the third trial; "select", "test", "baseline", "model"."""
    kind, _, number = call.partition(" ")
    calls: list[str] = []
    measure_point, measure_baseline = MergeEvaluator.measure_point, MergeEvaluator.measure_baseline

    def count(found: str) -> None:
        calls.append(found)
        if found == kind and calls.count(found) == int(number or 0) + 1:
            change()

    def watched(self: MergeEvaluator, point: Any, split: Any, places: Any) -> Any:
        count(split)
        return measure_point(self, point, split, places)

    def watched_baseline(self: MergeEvaluator, baseline: Any, split: Any) -> Any:
        count("baseline")
        return measure_baseline(self, baseline, split)

    def write(*arguments: Any, **options: Any) -> Path:
        count("model")
        return write_model(*arguments, **options)

    monkeypatch.setattr(search_command, "write_model", write)
    monkeypatch.setattr(MergeEvaluator, "measure_point", watched)
    monkeypatch.setattr(MergeEvaluator, "measure_baseline", watched_baseline)


JOURNAL, SHARDS = "aftermix.runs.journal.append_line", "aftermix.checkpoints.writer.write_shards"
PHASES = [("search 2", 2), ("select", 4), ("test", 4), ("baseline 1", 4), ("model", 4)]


@pytest.mark.parametrize(("file", "phases"), [("search", PHASES), ("density", [PHASES[0], PHASES[2]])])
def test_a_changed_input_ends_the_run_in_every_phase_and_no_trial_is_blamed(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    phases: list[tuple[str, int]],
) -> None:
    run = world / "run"
    command = shlex.join(["aftermix", "search", f"{world / file}.yaml", "-o", str(run)])
    for call, kept in phases:
        with monkeypatch.context() as patched:
            change_at(patched, call, lambda: touch(world / "b" / "model.safetensors"))
            assert run_cli(*shlex.split(command)[1:]) == 1, call

        told = capsys.readouterr().err.splitlines()[-3:]
        assert re.search(CHANGED, told[0])
        assert told[1] == f"kept: {kept} trials and every finished measurement, in {run}"
        goes_on = shlex.join(["aftermix", "search", f"{world / file}.yaml", "--resume", str(run)])
        assert told[2] == f"go on with: {goes_on}"
        assert [trial["state"] for trial in read_trials(run)] == ["complete"] * kept
        assert not {".lock", "model", "best.json"} & {path.name for path in run.iterdir()}
        command = told[2].removeprefix("go on with: ")

    # Its content is what it was: the command goes on.
    assert run_cli(*shlex.split(command)[1:]) == 0
    assert [trial["state"] for trial in read_trials(run)] == ["complete"] * 4
    assert (run / "report.html").is_file()


def test_a_full_disk_is_told_with_the_command_that_goes_on_and_trials_without_number_are_refused(
    world: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = world / "run"
    command = shlex.join(["search", f"{world}/search.yaml", "-o", f"{world}/run"])
    assert run_cli("search", write_search(world, tasks, name="none", trials=0), "-o", run) == 2
    assert "search.trials: is 0, so there is nothing to choose from" in capsys.readouterr().err

    # While the first files are written, then a line of the journal, then the model.
    for place, kept in (("aftermix.runs.json_record.write_atomically", None), (JOURNAL, 0), (SHARDS, 4)):
        with monkeypatch.context() as patched:
            patched.setattr(place, fill)
            assert run_cli(*shlex.split(command)) == (2 if kept is None else 1)
        told = capsys.readouterr().err.splitlines()
        if kept is None:
            remedy = "Free space or name another folder; nothing was left behind."
            assert told[-1] == f"aftermix: {run}: cannot be written (No space left on device). {remedy}"
            assert not run.exists()
            continue

        where = run / "model" if place == SHARDS else run
        assert told[-3] == f"aftermix: {where}: cannot be written (No space left on device). Free space, then go on."
        assert told[-2] == f"kept: {kept} trials and every finished measurement, in {run}"
        command = told[-1].removeprefix("go on with: aftermix ")
        assert command == shlex.join(["search", f"{world}/search.yaml", "--resume", str(run)])
    assert run_cli(*shlex.split(command)) == 0
