"""A search with a budget of tokens: planned, refused, stopped, grown, and on record."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from aftermix.api.commands.texts import describe_estimate
from aftermix.config import load_config
from aftermix.jobs.plan.command import plan
from conftest import run_cli

Family = Mapping[str, Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def write_file(folder: Path, family: Family, tasks: Path, **search: Any) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"]), "role": "instruction"}, "b": {"model": str(family["b"])}},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 10, "select": 8},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 9, "startup": 4, "top": 2, "baselines": False, **search},
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


def read_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def read_certificate(run: Path) -> dict[str, Any]:
    certificate: dict[str, Any] = json.loads((run / "best.json").read_text())["certificate"]
    return certificate


def list_weights(run: Path) -> list[Any]:
    return [line["weights"] for line in read_lines(run)]


def test_a_budget_is_planned_kept_and_grown(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    assert run_cli("search", write_file(tmp_path, family, tasks), "-o", whole) == 0
    trial = read_lines(whole)[0]["tokens"]
    assert {line["tokens"] for line in read_lines(whole)} == {trial}
    spent = read_certificate(whole)
    finalist = (spent["tokens"] - 9 * trial) // 2
    assert (spent["status"], spent["runs"], spent["items"]) == ("trials", 9, 20)
    assert spent["tokens"] == 9 * trial + 2 * finalist

    # As many trials as the plan says, the finalists included.
    limit, used = 6 * trial + 2 * finalist - 1, 5 * trial + 2 * finalist
    file = write_file(tmp_path, family, tasks, budget_tokens=limit)
    line = next(line for line in describe_estimate(plan(load_config(file))) if line.startswith("Budget"))
    runs = "5 of 9 runs x 20 search items, 2 finalists x 16 select items"
    assert line == f"Budget          {runs}: {used:,} of {limit:,} tokens"
    run = tmp_path / "run"
    assert run_cli("search", file, "-o", run) == 0
    assert list_weights(run) == list_weights(whole)[:5]
    stopped = read_certificate(run)
    assert (stopped["status"], stopped["runs"], stopped["items"], stopped["tokens"]) == ("budget", 5, 20, used)
    assert f"The budget ended the search after 5 trials ({used:,} tokens)." in capsys.readouterr().out

    # Without it the run goes on to all trials.
    assert run_cli("search", write_file(tmp_path, family, tasks), "--resume", run) == 0
    assert list_weights(run) == list_weights(whole)
    assert read_certificate(run)["status"] == "trials"


def test_the_first_design_follows_from_the_trials_that_the_budget_buys(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    response = {"strategy": "response", "startup": None, "trials": 40, "top": 1}
    assert (
        run_cli("search", write_file(tmp_path, family, tasks, **response, budget_tokens=9), "-o", tmp_path / "none")
        == 2
    )
    costs = re.search(r"\(([\d,]+) each on the search items, ([\d,]+) each", capsys.readouterr().err)
    assert costs is not None
    trial, finalist = (int(cost.replace(",", "")) for cost in costs.groups())

    # Forty trials would begin with eight merges, of which six buy no choice; six begin with four.
    run, file = tmp_path / "run", write_file(tmp_path, family, tasks, **response, budget_tokens=6 * trial + finalist)
    assert run_cli("search", file, "-o", run) == 0
    lines = read_lines(run)
    assert [line["origin"] for line in lines[:4]] == ["base", "prior", "prior", "startup"]
    assert {line["origin"] for line in lines[4:]} <= {"sampled optimum", "sampler"}
    assert len(lines) == 6

    # It is the run's, whatever it may spend when it goes on.
    assert load_config(run / "config.yaml").search.startup == 4
    assert run_cli("search", write_file(tmp_path, family, tasks, **response | {"trials": 7}), "--resume", run) == 0
    assert load_config(run / "config.yaml").search.startup == 4
    assert read_lines(run)[:6] == lines
    assert read_lines(run)[6]["origin"] in ("sampled optimum", "sampler")


def test_a_budget_below_two_trials_writes_nothing(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, family, tasks, budget_tokens=1000)
    for command in (("search", file, "-o", tmp_path / "run"), ("plan", file)):
        assert run_cli(*command) == 2
        assert "search.budget_tokens: expected at least" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
