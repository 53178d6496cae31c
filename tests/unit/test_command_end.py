"""Exit codes and last lines: 2 and nothing written, or 1 with what is kept and the command that goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aftermix.command_end import announce_resume, join_command, run_guarded
from aftermix.errors import AftermixError, CheckpointError, OccupiedRunError, RunFailedError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a/x")


def fail(error: BaseException, output: Path, *, has_begun: bool = False, anew: str | None = None) -> Callable[[], None]:
    def command() -> None:
        with announce_resume("aftermix go", kept="every trial", output=output, anew=anew, has_begun=has_begun):
            raise error

    return command


def test_a_command_is_quoted_as_a_shell_takes_it() -> None:
    assert join_command("aftermix", "search", None, "--resume", Path("my runs/first")) == (
        "aftermix search --resume 'my runs/first'"
    )


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (AftermixError("a", "b", "C."), 2, "aftermix: a: b. C.\n"),
        (
            OccupiedRunError("a", "b", "C."),
            2,
            "aftermix: a: b. Go on with it by `aftermix go`, or name a new folder.\n",
        ),
        (FULL, 2, "aftermix: No space left on device\n"),
        (GONE, 2, "aftermix: a/x: No such file or directory\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "aftermix: Broken pipe\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted. Nothing was written.\naftermix: interrupted\n"),
    ],
)
def test_where_nothing_was_written(
    error: BaseException, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in (tmp_path, tmp_path / "absent"):
        assert run_guarded(fail(error, output)) == code
        assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RunFailedError("a", "b", "C."), 1, "aftermix: a: b. C.\nKEPT"),
        (
            RunFailedError("a", "b", "C.", kept="3 trials"),
            1,
            "aftermix: a: b. C.\nkept: 3 trials\ngo on with: aftermix go\n",
        ),
        (FULL, 1, "aftermix: OUT: No space left on device. Mend that, then go on.\nKEPT"),
        (GONE, 1, "aftermix: a/x: No such file or directory. Mend that, then go on.\nKEPT"),
        (AftermixError("a", "b", "C."), 2, "aftermix: a: b. C.\n"),
        (
            KeyboardInterrupt(),
            130,
            "\nInterrupted. Every trial is kept; go on with:\n  aftermix go\naftermix: interrupted\n",
        ),
    ],
)
def test_where_something_was_written(
    error: BaseException, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    assert run_guarded(fail(error, tmp_path)) == code
    for mark, text in (
        ("KEPT", "kept: every trial, in OUT\nGO ON"),
        ("GO ON", "go on with: aftermix go\n"),
        ("OUT", str(tmp_path)),
        ("INTERRUPTED", "go on with:\n  aftermix go\naftermix: interrupted\n"),
    ):
        told = told.replace(mark, text)
    assert capsys.readouterr().err == told


def test_a_refusal_after_the_model_was_written_is_a_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(fail(CheckpointError("a", "b", "C."), tmp_path, has_begun=True)) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [f"kept: every trial, in {tmp_path}", "go on with: aftermix go"]


def test_where_going_on_would_end_alike_a_new_run_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for anew, told in (("aftermix new", "aftermix new"), (None, "aftermix go")):
        error = RunFailedError("a", "b", "C.", takes_new_run=True)
        assert run_guarded(fail(error, tmp_path, anew=anew)) == 1
        assert capsys.readouterr().err.endswith(f"go on with: {told}\n")


def test_a_bug_keeps_its_traceback_and_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ZeroDivisionError) as caught:
        run_guarded(fail(ZeroDivisionError(), tmp_path))
    assert caught.value.__notes__ == ["go on with: aftermix go"]
