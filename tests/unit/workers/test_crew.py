"""Crews of real workers, killed for real: on processes of this machine, and on actors of Ray where it is installed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from aftermix.errors import EvaluationError, SearchError, describe_cause
from aftermix.workers.crew import LostAttempt, WorkerCrew
from aftermix.workers.executor import WorkerExecutor, Workplace
from aftermix.workers.processes import ProcessExecutor
from support.toy_workers import open_children, open_processes, open_squares

OpenExecutor = Callable[[Workplace], WorkerExecutor]
WITHOUT_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'aftermix[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this machine, for all tests of this module."""
    from aftermix.workers.ray_actors import RayCluster

    cluster = RayCluster(cpus=4)
    yield cluster
    cluster.close()


@pytest.fixture(params=["processes", pytest.param("ray", marks=WITHOUT_RAY)])
def open_executor(request: pytest.FixtureRequest) -> OpenExecutor:
    if request.param == "processes":
        return ProcessExecutor
    from aftermix.workers.ray_actors import RayExecutor

    found = request.getfixturevalue("cluster")
    return lambda place: RayExecutor(place, found, gpus=0, leaves=False)


@contextmanager
def hire(open_executor: OpenExecutor, workers: int, plan: Any = None, **options: Any) -> Iterator[WorkerCrew]:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    executor = open_executor(Workplace(open_squares, plan, (environment,) * workers))
    try:
        yield WorkerCrew(executor, workers, **options)
    finally:
        executor.close()


def submit(crew: WorkerCrew, kind: str, number: int, file: Path | str = "") -> int:
    crew.submit(number, (kind, number, str(file)), label=f"task {number}")
    return number


def test_values_come_in_the_order_that_asks(open_executor: OpenExecutor) -> None:
    with hire(open_executor, 2) as crew:
        keys = [submit(crew, "square", number) for number in range(6)]
        submit(crew, "square", 3)  # is there already
        found = [crew.take(key) for key in reversed(keys)]
    assert [each.value for each in found] == [25, 16, 9, 4, 1, 0]
    assert {each.attempt for each in found} == {1}


@pytest.mark.parametrize(("kind", "reason"), [("die", "lost|SIGKILL"), ("hang", "did not answer within 0.5 s")])
def test_a_lost_worker_gives_its_task_back(open_executor: OpenExecutor, tmp_path: Path, kind: str, reason: str) -> None:
    lost: list[LostAttempt] = []
    with hire(open_executor, 2, timeout_s=0.5 if kind == "hang" else None, note=lost.append) as crew:
        keys = [submit(crew, "square", 1), submit(crew, kind, 2, tmp_path / "tried"), submit(crew, "square", 3)]
        found = [crew.take(key) for key in keys]
    assert [(each.value, each.attempt) for each in found] == [(1, 1), (4, 2), (9, 1)]
    assert [(each.label, each.attempt) for each in lost] == [("task 2", 1)]
    assert any(part in lost[0].reason for part in reason.split("|"))


def test_a_worker_out_of_memory_gives_its_task_back(open_executor: OpenExecutor, tmp_path: Path) -> None:
    lost: list[LostAttempt] = []
    with hire(open_executor, 1, note=lost.append) as crew:
        assert crew.take(submit(crew, "memory", 5, tmp_path / "tried")).value == 25
    assert [each.reason for each in lost] == ["ran out of memory (no room for 12 GB)"]


def test_a_task_that_costs_three_workers_has_failed_and_the_others_go_on(open_executor: OpenExecutor) -> None:
    lost: list[LostAttempt] = []
    with hire(open_executor, 2, note=lost.append) as crew:
        keys = [submit(crew, "die", 1), submit(crew, "square", 2), submit(crew, "square", 3)]
        failed, *others = [crew.take(key) for key in keys]
    assert [each.value for each in others] == [4, 9]
    assert [each.attempt for each in lost] == [1, 2, 3]
    assert (failed.value, failed.attempt) == (None, 3)
    assert isinstance(failed.error, EvaluationError)
    assert str(failed.error).startswith("task 1: cost 3 workers: worker ")
    assert failed.error.problem.remedy == ("Lower `evaluate.batch_size`, raise `evaluate.timeout_s`, or free memory.")


def test_what_a_worker_raises_and_tells_arrives_as_it_was(
    open_executor: OpenExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    with hire(open_executor, 2) as crew, caplog.at_level(logging.INFO, "aftermix"):
        for key in [submit(crew, "refuse", 1), submit(crew, "stranger", 2), *(submit(crew, "tell", n) for n in (3, 4))]:
            outcome = crew.take(key)
            if key == 1:
                assert isinstance(outcome.error, SearchError)
                assert str(outcome.error) == "trial 3: expected finite scores, found nan. Look at it."
                assert outcome.error.problems == (outcome.error.problem,)
            if key == 2:
                assert outcome.error is not None
                assert describe_cause(outcome.error) == "ValueError: cannot score; from UnsendableError: 1 of 2"
    assert caplog.messages == ["two of them are alike"]


def test_what_opening_raises_is_raised(open_executor: OpenExecutor) -> None:
    with hire(open_executor, 1, "refuse") as crew, pytest.raises(SearchError, match="expected a model, found none"):
        crew.take(submit(crew, "square", 1))


def test_workers_that_die_before_they_are_open_are_not_replaced_for_ever(open_executor: OpenExecutor) -> None:
    with hire(open_executor, 1, "die") as crew:
        key = submit(crew, "square", 1)
        with pytest.raises(EvaluationError, match="worker 0: 3 times it was lost before it had opened its models"):
            crew.take(key)


def test_no_process_is_left(open_executor: OpenExecutor) -> None:
    executor = open_executor(Workplace(open_processes, None, ({"PYTHONPATH": os.pathsep.join(sys.path)},) * 2))
    crew = WorkerCrew(executor, 2)
    for number in range(2):
        crew.submit(number, number, label="")
    workers = [psutil.Process(crew.take(number).value) for number in range(2)]
    crew.close()
    assert not psutil.wait_procs(workers, timeout=20)[1]


def test_processes_that_a_worker_started_end_with_it() -> None:
    executor = ProcessExecutor(Workplace(open_children, None, ({"PYTHONPATH": os.pathsep.join(sys.path)},)))
    crew = WorkerCrew(executor, 1)
    crew.submit(0, None, label="")
    child = psutil.Process(crew.take(0).value)
    crew.close()
    assert not psutil.wait_procs([child], timeout=20)[1]


ORPHANS = """
import sys
from aftermix.workers.crew import WorkerCrew
from aftermix.workers.executor import Workplace
from aftermix.workers.processes import ProcessExecutor
from support.toy_workers import open_squares

executor = ProcessExecutor(Workplace(open_squares, None, ({}, {})))
crew = WorkerCrew(executor, 2)
crew.submit(0, ("square", 2, ""), label="")
crew.take(0)
for number in (1, 2):
    crew.submit(number, ("hang", 0, ""), label="")
print(*executor.processes.values(), flush=True)
crew.take(1)
"""


def test_workers_end_with_a_process_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        workers = [psutil.Process(int(each)) for each in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=20)[1]


def test_the_end_of_a_process_is_told_with_its_last_words(tmp_path: Path) -> None:
    lost: list[LostAttempt] = []
    with hire(partial(ProcessExecutor), 1, note=lost.append) as crew:
        crew.submit("exit", ("leave", 0, ""), label="a task")
        outcome = crew.take("exit")
    assert outcome.error is not None
    assert {each.reason for each in lost} == {"ended with exit code 3 (no CUDA device is left)"}
