"""Tasks that change between two sessions: no score of one stands beside a score of the other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import load_config
from aftermix.errors import SearchError
from aftermix.jobs.plan.command import plan
from aftermix.jobs.verify.command import verify
from conftest import run_cli

pytestmark = pytest.mark.usefixtures("shown")

Family = Mapping[str, Path]


def write_file(folder: Path, family: Family, *, name: str = "file.yaml", **sections: Any) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {"b": {"model": str(family["b"])}, "c": {"model": str(family["c"])}},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(folder / "tasks"),
            "items": {"search": 8, "select": 6, "test": 6},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 2, "startup": 2, "top": 1, "baselines": False},
    }
    path = folder / name
    path.write_text(json.dumps(values | sections))
    return path


def reword(folder: Path, task: str) -> None:
    """Other words under the same answers, as an author mends texts."""
    path = folder / "tasks" / f"{task}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [{**row, "choices": [choice[::-1] for choice in row["choices"]]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in changed))


@pytest.fixture
def place(tmp_path: Path, tasks: Path) -> Path:
    shutil.copytree(tasks, tmp_path / "tasks")
    return tmp_path


def test_a_search_goes_on_with_its_own_tasks_alone(
    place: Path, family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "run"
    assert run_cli("search", write_file(place, family), "-o", run) == 0
    lock = json.loads((run / "lock.json").read_text())["evaluation"]
    assert list(lock) == ["tasks", "tokenizer", "chat_template", "threads"]
    assert {task: (entry["metric"], entry["items"]) for task, entry in lock["tasks"].items()} == {
        "colours": ("acc,none", 20),
        "numbers": ("acc,none", 20),
    }
    journal = (run / "trials.jsonl").read_bytes()
    assert run_cli("search", "--resume", run) == 0
    capsys.readouterr()

    reword(place, "numbers")
    longer = write_file(place, family, search={"trials": 3, "startup": 2, "top": 1, "baselines": False})
    assert run_cli("search", longer, "--resume", run) == 2
    assert f"{run}: task 'numbers': has changed since its scores were measured: expected documents sha256:" in (
        capsys.readouterr().err
    )
    assert (run / "trials.jsonl").read_bytes() == journal

    # Where the objective does without that task, the trials are taken, their scores of it are not.
    search = {"trials": 1, "startup": 1, "top": 3, "baselines": False}
    alone = write_file(place, family, search={**search, "objective": {"tasks": {"colours": 1}}})
    assert run_cli("search", alone, "-o", place / "without", "--from", run) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--from")]
    assert len(said) == 1
    assert "scores of another task are left out ('numbers': expected documents sha256:" in said[0]
    assert said[0].endswith("the trials are taken without them")
    trials = [json.loads(line) for line in (place / "without" / "trials.jsonl").read_text().splitlines()]
    assert [list(trial["scores"]) for trial in trials] == [["colours"], ["colours"], ["colours", "numbers"]]
    best = json.loads((place / "without" / "best.json").read_text())
    assert {task for entry in best["candidates"] for task in entry["select"]["tasks"]} == {"colours", "numbers"}

    # Where it needs them, the trials are scored on that task alone.
    both = write_file(place, family, search=search)
    assert run_cli("search", both, "-o", place / "anew", "--from", run) == 0
    said = capsys.readouterr()
    assert f"--from {run}: 2 trials are scored on 'numbers' alone (expected documents sha256:" in said.err
    journals = [(each / "trials.jsonl").read_text().splitlines() for each in (place / "anew", run)]
    trials, old = ([json.loads(line) for line in lines] for lines in journals)
    assert [trial["origin"] for trial in trials] == ["run#0", "run#1", "sampler"]
    for trial, before in zip(trials, old, strict=False):
        assert trial["scores"]["colours"] == before["scores"]["colours"]
        assert 0 < trial["tokens"] < before["tokens"]
    reused = json.loads((place / "anew" / "best.json").read_text())["reused"]
    tokens = trials[0]["tokens"] + trials[1]["tokens"]
    assert reused == {"merges": 2, "failed": 0, "tasks": ["numbers"], "tokens": tokens}
    assert "2 merges of an earlier run were scored on numbers alone" in said.out

    # The plan prices the same: what the merges take on that task, the new trial, and finalists among all three.
    spent = json.loads((place / "anew" / "best.json").read_text())["certificate"]["tokens"]
    runs = "1 runs after 2 reused x 16 search items, 3 finalists x 12 select items"
    assert plan(load_config(both), source=run).runs == f"{runs}: {spent:,} tokens"


@pytest.mark.whole
def test_a_mixture_and_its_verification_are_held_by_the_same_rule(
    place: Path, family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"the sum of the numbers is {number}"} for number in range(40)]
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data": str(place / "data.jsonl"), "tokens": 64}
    train = {
        "context": 16,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "datasets": {"b": data, "c": data},
        "mixtures": {"learning_rate": 1e-3, "schedule": "constant"},
    }
    mixture = {"points": 6, "repeats": 1, "verify": 1}
    file = write_file(place, family, mixture=mixture, train=train)
    run = place / "run"
    assert run_cli("mixture", file, "-o", run) == 0
    assert set(json.loads((run / "lock.json").read_text())["evaluation"]["tasks"]) == {"colours", "numbers"}

    yaml = place / "tasks" / "colours.yaml"
    yaml.write_text(yaml.read_text().replace("{{question}}", "{{question}} Say:"))
    expected = f"{run}: task 'colours': has changed since its scores were measured: expected requests or scoring code"
    again = write_file(place, family, mixture={**mixture, "verify": 2}, train=train)
    capsys.readouterr()
    assert run_cli("mixture", again, "--resume", run) == 2
    assert expected in capsys.readouterr().err

    before = {path for path in run.rglob("*") if path.name != ".lock"}
    with pytest.raises(SearchError, match=re.escape(expected)):
        verify(load_config(file), run, mixtures=3)
    assert {path for path in run.rglob("*") if path.name != ".lock"} == before
