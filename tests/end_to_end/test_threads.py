"""`threads: auto`: settled once by the time of three batches, recorded, and kept by whatever goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aftermix import devices
from aftermix.devices import choose_threads
from aftermix.evaluation.suites import harness_suite
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.search.score_lock import read_threads
from aftermix.training import loop, trainer
from conftest import run_cli
from support.training_world import base_folder, corpus, make_config

__all__ = ["base_folder", "corpus", "make_config"]
Family = Mapping[str, Path]


@pytest.fixture(autouse=True)
def _two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Clock:
    """A clock that goes on by what a batch costs under the threads of the moment."""

    def __init__(self, *costs: Mapping[int, float]) -> None:
        self.seconds, self.costs, self.ran = 0.0, costs, list[tuple[int, int]]()

    def batches(self) -> list[Any]:
        return [lambda number=number: self.run(number) for number in range(len(self.costs))]

    def run(self, number: int) -> None:
        self.ran.append((number, torch.get_num_threads()))
        self.seconds += self.costs[number][torch.get_num_threads()]


@pytest.mark.parametrize(
    ("costs", "chosen"),
    [
        ([{1: 3.0, 2: 2.0}] * 3, 2),
        ([{1: 3.0, 2: 50.0}] * 3, 1),
        ([{1: 3.0, 2: 3.0}] * 3, 1),
        # One batch during which another program ran decides nothing.
        ([{1: 3.0, 2: 2.0}, {1: 3.0, 2: 90.0}, {1: 3.0, 2: 2.0}], 2),
        ([{1: 3.0, 2: 50.0}, {1: 99.0, 2: 50.0}, {1: 3.0, 2: 50.0}], 1),
    ],
)
def test_most_batches_decide(monkeypatch: pytest.MonkeyPatch, costs: list[Mapping[int, float]], chosen: int) -> None:
    clock = Clock(*costs)
    monkeypatch.setattr(devices, "perf_counter", lambda: clock.seconds)
    assert choose_threads(clock.batches()) == torch.get_num_threads() == chosen
    assert clock.ran == [(0, 2), (0, 1), (0, 2), (1, 2), (1, 1), (2, 1), (2, 2)]


class WakingClock(Clock):
    """Two threads take 0.05 s to wake up: the first run under them costs so much more."""

    def run(self, number: int) -> None:
        wakes = torch.get_num_threads() == 2 and self.ran[-1:] == [(number, 1)]
        super().run(number)
        self.seconds += 0.05 * wakes


def test_short_batches_are_timed_by_the_mean_of_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WakingClock({1: 0.06, 2: 0.04})
    monkeypatch.setattr(devices, "perf_counter", lambda: clock.seconds)
    # Of one run each, 0.09 s under two threads would lose; the four runs that fill 0.2 s take 0.0525 s each.
    assert choose_threads(clock.batches()) == 2
    assert clock.ran == [(0, 2), *[(0, 1)] * 4, *[(0, 2)] * 4]


def test_one_core_and_no_batch_need_no_measurement() -> None:
    assert choose_threads([]) == 2
    torch.set_num_threads(1)
    assert choose_threads([lambda: pytest.fail("was run")]) == 1


def write_search(folder: Path, family: Family, tasks: Path, **evaluate: Any) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {name: {"model": str(family[name])} for name in ("b", "c")},
        "merge": {"method": "linear"},
        "evaluate": {
            "tasks": ["colours"],
            "include_path": str(tasks),
            "items": {"search": 6, "select": 6, "test": 6},
            **evaluate,
        },
        "search": {"strategy": "tpe", "trials": 2, "startup": 2, "top": 1, "baselines": False},
    }
    path = folder / "search.yaml"
    path.write_text(json.dumps(values))
    return path


def choose_always(monkeypatch: pytest.MonkeyPatch, place: Any, threads: int) -> list[int]:
    """Have `place` find `threads` faster; the numbers of batches that it is asked about."""
    asked: list[int] = []

    def choose(batches: Any) -> int:
        asked.append(len(batches))
        for run_batch in batches:
            run_batch()
        torch.set_num_threads(threads)
        return threads

    monkeypatch.setattr(place, "choose_threads", choose)
    return asked


def watch_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of torch at each measurement from here on."""
    seen: list[int] = []
    evaluate = ModelEvaluator.evaluate

    def watch(*given: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        return evaluate(*given, **named)

    monkeypatch.setattr(ModelEvaluator, "evaluate", watch)
    return seen


def test_a_search_records_its_threads_and_goes_on_with_them(
    tmp_path: Path, family: Family, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = choose_always(monkeypatch, harness_suite, 1)
    file, run = write_search(tmp_path, family, tasks), tmp_path / "run"
    assert run_cli("search", file, "-o", run) == 0
    assert asked == [3]
    assert json.loads((run / "lock.json").read_text())["evaluation"]["threads"] == read_threads(run) == 1

    # On a machine that is quiet by now, the run still goes on as it began.
    torch.set_num_threads(2)
    values = json.loads(file.read_text())
    values["search"]["trials"] = 3
    file.write_text(json.dumps(values))
    seen = watch_threads(monkeypatch)
    assert run_cli("search", file, "--resume", run) == 0
    assert (asked, set(seen)) == ([3], {1})
    assert torch.get_num_threads() == 2, "as it was before"

    # A number in the file goes before it, and so does null: all cores.
    for threads in (2, None):
        seen.clear()
        write_search(tmp_path, family, tasks, threads=threads)
        assert run_cli("evaluate", file) == 0
        assert (asked, set(seen)) == ([3], {2})


def test_a_run_that_recorded_none_goes_on_with_all_cores(tmp_path: Path) -> None:
    assert read_threads(Path(__file__).parents[1] / "data" / "runs-0a1294b" / "search") == 2
    assert read_threads(tmp_path) == 2


def test_plan_measures_with_the_threads_that_would_be_taken(
    tmp_path: Path, family: Family, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choose_always(monkeypatch, harness_suite, 1)
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: 75.0)
    monkeypatch.setattr("psutil.cpu_count", lambda: 2)
    assert run_cli("plan", write_search(tmp_path, family, tasks)) == 0
    out = capsys.readouterr().out
    assert " tokens/s measured now with 1 thread; one merge " in out
    assert "Busy            other work keeps 1.5 cores: alone, the job is faster than this" in out


@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_records_its_threads_and_goes_on_with_them(
    tmp_path: Path, base_folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    settings = {
        "base": str(base_folder),
        "train": {
            "datasets": {"cats": {"data": str(corpus), "tokens": 320}},
            "context": 16,
            "batch_size": 4,
            "save_steps": 2,
        },
    }
    file, out = tmp_path / "train.yaml", tmp_path / "experts"
    file.write_text(yaml.safe_dump(settings))

    asked = choose_always(monkeypatch, trainer, threads)
    advance = loop.StepRecorder.on_step_end

    def interrupt(self: loop.StepRecorder, *args: Any, **kwargs: Any) -> None:
        advance(self, *args, **kwargs)
        if len(self.losses) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop.StepRecorder, "on_step_end", interrupt)
        assert run_cli("train", file, "-o", out) == 130
    (point,) = out.glob(".cats.training/checkpoint-*/point.json")
    assert (asked, json.loads(point.read_text())["threads"]) == ([3], threads)

    assert run_cli("train", file, "-o", out) == 0
    assert (asked, torch.get_num_threads()) == ([3], 2)
    record = json.loads((out / "cats" / "train.json").read_text())
    assert record["threads"] == threads


def test_timed_steps_leave_no_trace(
    tmp_path: Path, base_folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expert is, to the bit, that of a file which names the threads."""
    choose_always(monkeypatch, trainer, 1)
    weights = []
    for threads in ("auto", 1):
        train = {"datasets": {"cats": {"data": str(corpus), "tokens": 128}}, "context": 16, "batch_size": 4}
        file = tmp_path / f"{threads}.yaml"
        file.write_text(yaml.safe_dump({"base": str(base_folder), "train": {**train, "threads": threads}}))
        assert run_cli("train", file, "-o", tmp_path / str(threads)) == 0
        weights.append((tmp_path / str(threads) / "cats" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
