"""A run is one process's from its first write to its report; a refusal writes nothing, a stop tells what is kept."""

from __future__ import annotations

import contextvars
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftermix.errors import AftermixError, CheckpointError, ManyProblemsError, Problem, RunFailedError, SearchError
from aftermix.runs.session import open_session

HOLDER = rf"run: process {os.getpid()} on {socket.gethostname()} works here since 20"


def begin(run: Path, *, work: Callable[[], Any] = lambda: None) -> None:
    """A new run of one file, and then `work`."""
    with open_session(run, resume=False) as session:
        with session.begin():
            (run / "config.yaml").write_text("search: {}\n")
        work()


def resume(run: Path, *, work: Callable[[], Any] = lambda: None, checked: bool = True) -> None:
    with open_session(run, resume=True) as session:
        if checked:
            session.go_on()
        work()


def elsewhere(job: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    """`job` as another thread or process would call it: outside of the session around it."""
    return lambda: contextvars.Context().run(job, *arguments)


def raise_error(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("second", [begin, resume])
@pytest.mark.parametrize("first", [begin, resume])
def test_a_second_start_while_the_first_lives_is_refused_and_writes_nothing(
    first: Callable[..., None], second: Callable[..., None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if first is resume:
        begin(run)

    def start_second() -> None:
        holder = json.loads((run / ".lock").read_text())
        assert set(holder) == {"pid", "host", "command", "started"}
        before = list_files(tmp_path)
        with pytest.raises(AftermixError, match=HOLDER) as caught:
            elsewhere(second, run)()
        assert caught.value.exit_code == 2
        assert list_files(tmp_path) == before

    first(run, work=start_second)
    assert list(list_files(tmp_path)) == ["run/config.yaml"]
    resume(run)


def test_two_starts_that_both_found_the_folder_empty(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_session(run, resume=False) as session:
        elsewhere(begin, run)()
        with pytest.raises(SearchError, match="run: exists and is not empty"), session.begin():
            pytest.fail("begun twice")
    assert list_files(tmp_path) == {"run/config.yaml": b"search: {}\n"}


def test_a_job_within_a_job_works_under_its_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_session(run, resume=False):
        begin(run)
        assert (run / ".lock").is_file()
        with pytest.raises(AftermixError, match=HOLDER):
            elsewhere(resume, run)()
        resume(run)
    assert not (run / ".lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    lock = {
        "pid": 1,
        "host": socket.gethostname(),
        "command": "aftermix search",
        "started": "2026-01-01T00:00:00+00:00",
    }
    (tmp_path / "run/.lock").write_text(json.dumps(lock))
    resume(tmp_path / "run")
    assert list(list_files(tmp_path)) == ["run/config.yaml"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (SearchError("run", "other items", "Restore them."), SearchError),
        (OSError(28, "No space left on device"), SearchError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a bug"), ValueError),
    ],
)
def test_what_fails_before_a_run_has_begun_leaves_nothing(
    error: BaseException, raised: type[BaseException], tmp_path: Path
) -> None:
    run = tmp_path / "deep/run"

    def write_half() -> None:
        with open_session(run, resume=False) as session, session.begin():
            (run / "items").mkdir()
            (run / "items/split.json").write_text("{}")
            (run / "lock.json").write_text("{}")
            raise error

    with pytest.raises(raised) as caught:
        write_half()
    assert list(tmp_path.iterdir()) == []
    if isinstance(error, OSError):
        remedy = "Free space or name another folder; nothing was left behind."
        assert str(caught.value) == f"{run}: cannot be written (No space left on device). {remedy}"


def test_a_resume_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    before = list_files(tmp_path)
    with pytest.raises(SearchError, match="other items"):
        resume(tmp_path / "run", work=raise_error(SearchError("run", "other items", "Restore.")), checked=False)
    assert list_files(tmp_path) == before
    with pytest.raises(SearchError, match=r"nowhere: is not a run: it has no config\.yaml"):
        resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CheckpointError("a/x", "has changed", "Restore it."), "a/x: has changed. Restore it."),
        (
            ManyProblemsError([Problem("a", "b", "C."), Problem("d", "e", "F.")]),
            "2 problems:\n  1. a: b. C.\n  2. d: e. F.",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a/x"),
            "a/x: No such file or directory. Mend that, then go on.",
        ),
        (
            OSError(28, "No space left on device"),
            "RUN: cannot be written (No space left on device). Free space, then go on.",
        ),
        (MemoryError(), "RUN: out of memory. Free memory or lower `evaluate.batch_size`, then go on."),
        (RunFailedError("a", "b", "C."), "a: b. C."),
    ],
)
def test_what_fails_afterwards_is_a_stop_that_tells_what_is_kept(
    error: Exception, message: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def work() -> None:
        (run / "trials.jsonl").write_text("1\n2\n")
        (run / "levels/root").mkdir(parents=True)
        (run / "levels/root/trials.jsonl").write_text("1\n{torn")
        raise error

    with pytest.raises(RunFailedError) as caught:
        begin(run, work=work)
    assert caught.value.exit_code == 1
    assert str(caught.value) == message.replace("RUN", str(run))
    assert caught.value.kept == f"3 trials and every finished measurement, in {run}"
    assert sorted(list_files(run)) == ["config.yaml", "levels/root/trials.jsonl", "trials.jsonl"]


def test_a_full_disk_inside_another_error_names_its_place(tmp_path: Path) -> None:
    def work() -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise CheckpointError("run/model", "cannot be written (...)", "Choose another folder.") from error

    with pytest.raises(RunFailedError) as caught:
        begin(tmp_path / "run", work=work)
    assert str(caught.value) == "run/model: cannot be written (No space left on device). Free space, then go on."


def test_a_bug_keeps_its_type_and_says_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        begin(tmp_path / "run", work=raise_error(ZeroDivisionError("x")))
    assert caught.value.__notes__ == [f"kept: 0 trials and every finished measurement, in {tmp_path / 'run'}"]
