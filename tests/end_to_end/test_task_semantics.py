"""Metrics of a task from the file to the report, and a search whose scores are all equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from aftermix.command_end import join_command
from conftest import run_cli

pytestmark = pytest.mark.usefixtures("shown")

Family = Mapping[str, Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def write_file(folder: Path, family: Family, tasks: Path, score: str, **values: Any) -> Path:
    """A search over two experts on the task `partial`: the choices of `colours`, scored by the Python `score`."""
    own = folder / "tasks"
    own.mkdir()
    (own / "colours.jsonl").write_text((tasks / "colours.jsonl").read_text())
    (own / "partial.yaml").write_text(
        (tasks / "colours.yaml").read_text().replace("task: colours", "task: partial")
        + "process_results: !function own.score\n"
    )
    (own / "own.py").write_text(f"def score(doc, results):\n    lls = [each[0] for each in results]\n    {score}\n")
    path = folder / "aftermix.yaml"
    evaluate = {"include_path": "tasks", "items": {"search": 20, "select": 15}, "threads": 1}
    content = {
        "base": str(family["base"]),
        "vectors": {name: {"model": str(family[name])} for name in ("a", "b")},
        "merge": {"method": "task_arithmetic", "exclude": []},
        "evaluate": {**evaluate, "tasks": [{"task": "partial", **values}]},
        "search": {"strategy": "tpe", "trials": 5, "startup": 3, "top": 2, "baselines": True},
    }
    path.write_text(json.dumps(content))
    return path


HARD = (
    "right = float(max(range(3), key=lls.__getitem__) == doc['gold']); "
    "return {'acc_hard' if ord(doc['choices'][0][0]) % 2 else 'acc': right}"
)


def test_a_metric_of_some_documents_goes_from_the_file_to_the_report(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_file(tmp_path, family, tasks, HARD, metric="acc_hard")
    for command in ("doctor", "plan"):
        assert run_cli(command, path) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "but aggregation is not" in line]
        assert "evaluate.tasks: lm-eval warns: [Task: partial] metric acc is defined, but aggregation is not." in line
        assert line.endswith("times like this). Look whether the task's YAML means this.")

    assert run_cli("search", path, "-o", tmp_path / "run") == 0
    told = capsys.readouterr().err
    assert told.count("lm-eval warns: [Task: partial] metric acc is defined, but aggregation is not.") == 1

    best = json.loads((tmp_path / "run" / "best.json").read_text())
    items = json.loads((tmp_path / "run" / "items" / "search" / "00000.json").read_text())["partial"]
    assert None in items
    assert len(items) == 20
    assert best["metrics"] == {"partial": "acc_hard,none"}
    assert 0 < best["test"]["tasks"]["partial"]["items"] < 25
    assert "acc_hard,none" in (tmp_path / "run" / "report.html").read_text()
    assert all(baseline["difference"]["interval"] for baseline in best["baselines"])

    (tmp_path / "run" / "best.json").unlink()
    assert run_cli("search", path, "--resume", tmp_path / "run") == 0
    again = json.loads((tmp_path / "run" / "best.json").read_text())
    assert again | {"seconds": 0} == best | {"seconds": 0}


def test_equal_scores_stop_the_search_with_exit_code_1(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_file(tmp_path, family, tasks, "return {'acc': 0.0}")
    for arguments in (("-o", tmp_path / "run"), ("--resume", tmp_path / "run")):
        assert run_cli("search", path, *arguments) == 1
        told = capsys.readouterr().err
        assert "all 4 trials of the first design scored the same on every search item (partial 0)" in told
        assert f"go on with: {join_command('aftermix', 'search', path, '-o', tmp_path / 'run-2')}\n" in told
    assert len((tmp_path / "run" / "trials.jsonl").read_text().splitlines()) == 4


def ask_for_mixture(path: Path, **mixture: Any) -> None:
    """Make the search of `path` a mixture of its two experts."""
    content = json.loads(path.read_text())
    del content["search"]
    path.write_text(json.dumps(content | {"mixture": {"points": 5, "verify": 1, **mixture}}))


@pytest.mark.parametrize("rounds", [[], [2]])
def test_equal_scores_stop_a_mixture_after_its_first_design(
    rounds: list[int], tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_file(tmp_path, family, tasks, "return {'acc': 0.25}")
    ask_for_mixture(path, rounds=rounds)
    run = tmp_path / "run"
    for arguments in (("-o", run), ("--resume", run), ("-o", tmp_path / "run-2", "--from", run)):
        assert run_cli("mixture", path, *arguments) == 1
        told = capsys.readouterr().err
        (stop,) = [line for line in told.splitlines() if line.startswith("aftermix: ")]
        assert " points of the first design scored the same (partial 0.25), so that no mixture" in stop
        assert "is better than another; the points are kept. Look whether the answers" in stop
        assert "wider bounds, and start a new run with `aftermix mixture FILE -o NEW`." in stop
        if arguments[0] == "-o":
            output = arguments[1]
            assert f"go on with: {join_command('aftermix', 'mixture', path, '-o', f'{output}-2')}\n" in told
    assert len((run / "trials.jsonl").read_text().splitlines()) == 5
    assert not (run / "best.json").exists()


def test_equal_scores_stop_the_root_of_a_tree(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_file(tmp_path, family, tasks, "return {'acc': 0.25}")
    content = json.loads(path.read_text())
    content["vectors"]["c"] = {"model": str(family["c"])}
    path.write_text(json.dumps(content))
    ask_for_mixture(path, tree=["a", {"pair": ["b", "c"]}])
    assert run_cli("mixture", path, "-o", tmp_path / "run") == 1
    told = capsys.readouterr().err
    assert "points of the first design scored the same (partial 0.25)" in told
    assert f"go on with: {join_command('aftermix', 'mixture', path, '-o', tmp_path / 'run-2')}\n" in told


@pytest.mark.parametrize("command", ["search", "mixture"])
def test_a_scoring_that_fails_at_every_answer_takes_a_new_run(
    command: str, tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run holds its tasks as they were, so that one mended in place is none of it."""
    # The first item is scored before the first trial: what it shows is refused there.
    path = write_file(tmp_path, family, tasks, "return {'acc': 1 / (not doc['question'].endswith('5?'))}")
    if command == "mixture":
        ask_for_mixture(path)
    run = tmp_path / "run"
    assert run_cli(command, path, "-o", run) == 1
    told = capsys.readouterr().err
    assert "its answer cannot be scored (ZeroDivisionError: " in told
    assert "Mend it and start a new run: scores of one run are of tasks that stay as they are." in told
    assert f"go on with: {join_command('aftermix', command, path, '-o', f'{run}-2')}\n" in told


def test_an_error_of_the_scoring_is_one_line_in_evaluate(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_file(tmp_path, family, tasks, "return {'acc': lls[7]}")
    assert run_cli("evaluate", path) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "item 'partial/" in line]
    assert "its answer cannot be scored (IndexError: list index out of range)" in line
