"""`aftermix search` with workers: killed, interrupted, resumed with another number of them, it is the same search."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from aftermix.config import Config, load_config
from aftermix.jobs.search.command import search
from aftermix.runs.workers.lost_attempts import read_lost_attempts
from aftermix.workers import processes
from aftermix.workers.processes import ProcessExecutor
from aftermix.workers.ray_actors import RayExecutor
from support.forked import ForkedWorker

OF_THE_CLOCK = ("seconds", "worker", "attempt")


def read_file(folder: Path, family: Mapping[str, Path], tasks: Path, **evaluate: Any) -> Config:
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"]), "role": "instruction"}, "b": {"model": str(family["b"])}},
        "merge": {"method": "task_arithmetic"},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 12, "select": 12, "test": 12},
            "threads": 1,
            **evaluate,
        },
        "search": {"trials": 6, "batch": 3, "startup": 3, "strategy": "tpe", "top": 2, "baselines": False},
    }
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(values))
    return load_config(path)


def list_trials(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in OF_THE_CLOCK} for line in lines]


def list_attempts(run: Path) -> list[int]:
    return [json.loads(line)["attempt"] for line in (run / "trials.jsonl").read_text().splitlines()]


def read_measured(run: Path) -> dict[str, bytes]:
    """Proposals, item scores and log-likelihoods, to the byte; no blocks are among them."""
    found = [run / "proposals.jsonl", *(path for path in sorted((run / "items").rglob("*")) if path.is_file())]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def whole(folder: Path, family: Mapping[str, Path], tasks: Path) -> Path:
    """The search in one process."""
    return search(read_file(folder, family, tasks), folder / "whole")


@pytest.fixture
def after_send(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, int], object]], list[int]]:
    """Have workers forked, and something done after each task that is sent: told its count and the worker's process.

    The list is of all processes that were.
    """

    def install(act: Callable[[int, int], object]) -> list[int]:
        sent, started = [0], []
        send, start = ProcessExecutor.send, ProcessExecutor.start

        def send_and_act(executor: ProcessExecutor, number: int, task: Any) -> None:
            send(executor, number, task)
            sent[0] += 1
            act(sent[0], executor.processes[number])

        def start_and_note(executor: ProcessExecutor, number: int) -> None:
            start(executor, number)
            started.append(executor.processes[number])

        monkeypatch.setattr(ProcessExecutor, "send", send_and_act)
        monkeypatch.setattr(ProcessExecutor, "start", start_and_note)
        monkeypatch.setattr(processes, "launch_process", ForkedWorker)
        return started

    return install


def test_workers_that_are_killed_change_nothing(
    whole: Path, folder: Path, family: Mapping[str, Path], tasks: Path, after_send: Any
) -> None:
    def kill(count: int, process: int) -> None:
        if count in (2, 4, 9):
            os.kill(process, signal.SIGKILL)

    started = after_send(kill)
    run = search(read_file(folder, family, tasks, workers=2, timeout_s=300), folder / "killed")
    assert list_trials(run) == list_trials(whole)
    assert read_measured(run) == read_measured(whole)
    lost = read_lost_attempts(run)
    assert [each.reason for each in lost] == ["was ended by SIGKILL"] * 3
    of_trials = [each for each in lost if each.label.startswith("search items of ")]
    assert len(of_trials) == sum(attempt - 1 for attempt in list_attempts(run)) >= 2
    assert len(started) == 5
    assert not [each for each in started if psutil.pid_exists(each)]


def test_an_interrupted_search_goes_on_with_other_workers(
    whole: Path, folder: Path, family: Mapping[str, Path], tasks: Path, after_send: Any
) -> None:
    started = after_send(lambda count, _: signal.raise_signal(signal.SIGINT) if count == 4 else None)
    run = folder / "interrupted"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            search(read_file(folder, family, tasks, workers=2), run)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not [each for each in started if psutil.pid_exists(each)]
    search(read_file(folder, family, tasks, timeout_s=300), run, resume=True)
    assert list_trials(run) == list_trials(whole)
    assert read_measured(run) == read_measured(whole)


@pytest.mark.whole
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'aftermix[ray]'")
def test_actors_of_ray_that_are_killed_change_nothing(
    whole: Path, folder: Path, family: Mapping[str, Path], tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, found = RayExecutor.send, list[int]()

    def send_and_kill(executor: RayExecutor, number: int, task: Any) -> None:
        process = executor.find_process(number)
        found.append(process)
        send(executor, number, task)
        if len(found) in (2, 5):
            os.kill(process, signal.SIGKILL)

    monkeypatch.setattr(RayExecutor, "send", send_and_kill)
    run = search(read_file(folder, family, tasks, workers=2, cluster="ray"), folder / "ray")
    assert list_trials(run) == list_trials(whole)
    assert read_measured(run) == read_measured(whole)
    assert len(read_lost_attempts(run)) == 2
    assert sum(list_attempts(run)) >= 6
    assert not [each for each in found if psutil.pid_exists(each)]


KILLER = """
import os, signal
from pathlib import Path

HERE = Path(__file__).parent

def items():
    return {"signs": list(range(9))}

def score(model, tokenizer, items):
    weights = next(value for name, value in model.named_parameters() if "q_proj" in name).flatten()[:9]
    found = repr(weights.tolist())
    for name in ("base", "victim"):
        try:
            with (HERE / name).open("x") as file:
                file.write(found)
        except FileExistsError:
            pass
        if (HERE / name).read_text() == found:
            break
    else:
        name = "other"
    if name == "victim":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"signs": {"scores": [float(weights[item] > 0) for item in items["signs"]]}}
"""
"""A scorer that dies of the first merge that it is given."""


@pytest.mark.whole
def test_a_point_that_kills_three_workers_has_failed_and_the_search_goes_on(
    tmp_path: Path, family: Mapping[str, Path], tasks: Path, after_send: Any
) -> None:
    after_send(lambda count, process: None)
    (tmp_path / "killer.py").write_text(KILLER)
    file = read_file(tmp_path, family, tasks)
    evaluate = {"function": str(tmp_path / "killer.py:score"), "workers": 2, "threads": 1, "items": {"search": 3}}
    config = Config.model_validate(file.model_dump(by_alias=True) | {"evaluate": evaluate})
    run = search(config, tmp_path / "run")

    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    (failed,) = [line for line in lines if line["state"] == "failed"]
    number, worker = failed["number"], failed["worker"]
    assert len(lines) == 6
    assert failed["attempt"] == 3
    assert failed["error"].startswith(f"search items of {number:05d}: cost 3 workers: worker ")
    lost = read_lost_attempts(run)
    assert [(each.attempt, each.reason) for each in lost] == [(n, "was ended by SIGKILL") for n in (1, 2, 3)]
    assert lost[-1].worker == worker
