"""`aftermix search` killed with SIGKILL at several moments, resumed, and held against a run that was left alone."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import load_config
from aftermix.jobs.search.command import search
from support.forked import COMMAND, ForkedProcess, run_forked

POLL_S = 0.002


def write_file(folder: Path, family: Mapping[str, Path], tasks: Path) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"]), "role": "instruction"}, "b": {"model": str(family["b"])}},
        "merge": {"method": "ties", "density": 0.5},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 10, "select": 10},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 12, "startup": 4, "top": 2, "baselines": False},
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


def kill_when(arguments: list[str], moment: Callable[[], bool]) -> None:
    process = ForkedProcess(COMMAND, "search", *arguments)
    while not moment():
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"ended with {process.returncode} before the moment came")
    process.kill()
    assert process.wait() == -signal.SIGKILL


def finished_trials(run: Path) -> int:
    journal = run / "trials.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def without_seconds(run: Path) -> list[dict[str, Any]]:
    lines = (run / "trials.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.whole
def test_a_search_killed_thrice_reaches_the_same_result(
    tmp_path: Path, family: Mapping[str, Path], tasks: Path
) -> None:
    file = write_file(tmp_path, family, tasks)
    run, alone = tmp_path / "run", tmp_path / "alone"
    search(load_config(file), alone)

    kill_when([str(file), "-o", str(run)], lambda: finished_trials(run) >= 3)
    kept = without_seconds(run)
    assert kept == without_seconds(alone)[: len(kept)]

    kill_when([str(file), "--resume", str(run)], lambda: finished_trials(run) > max(len(kept), 7))
    kill_when(["--resume", str(run)], lambda: any(run.glob(".model.incomplete-*")))
    assert not (run / "model").exists()
    assert not (run / "best.json").exists()
    assert not list(run.rglob(".model.incomplete-*/config.json"))

    done = run_forked(COMMAND, "search", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert without_seconds(run) == without_seconds(alone)
    for name in ("model/model.safetensors", "model/config.json"):
        assert (run / name).read_bytes() == (alone / name).read_bytes(), name
    recipes = [load_config(folder / "model" / "aftermix.yaml") for folder in (run, alone)]
    assert recipes[0] == recipes[1]
    ours, theirs = (json.loads((folder / "best.json").read_text()) for folder in (run, alone))
    assert {key: value for key, value in ours.items() if key != "seconds"} == {
        key: value for key, value in theirs.items() if key != "seconds"
    }
    assert not list(run.glob(".*"))
