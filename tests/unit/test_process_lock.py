"""One process at a time: the second is told which the first is, a killed one stands in nobody's way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aftermix.errors import AftermixError, TrainingError
from aftermix.process_lock import LockHolder, hold_lock, share_folder

WAITING = "print('inside', flush=True); sys.stdin.read()"
HOLDING = f"""
import sys
from pathlib import Path
from aftermix.process_lock import hold_lock, share_folder
with {{block}}:
    {WAITING}
"""


@contextmanager
def another_process(block: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process inside `block`, which it leaves when its input is closed."""
    command = [sys.executable, "-c", HOLDING.format(block=block), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        yield process
        if process.poll() is None and process.stdin:
            process.stdin.close()


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_the_second_is_told_who_the_first_is_and_writes_nothing(tmp_path: Path) -> None:
    file, subject = tmp_path / "new/deep/.x.lock", tmp_path / "new/deep/x"
    with another_process(f"hold_lock(Path({str(file)!r}), subject=Path({str(subject)!r}))", "go", "-o", "a b") as first:
        before = snapshot(tmp_path)
        with pytest.raises(AftermixError) as caught, hold_lock(file, subject=subject):
            pytest.fail("entered twice")
        assert snapshot(tmp_path) == before
    message = str(caught.value)
    assert message.startswith(f"{subject}: process {first.pid} on {socket.gethostname()} works here since 2")
    assert message.endswith("(-c go -o 'a b'). Wait for it or stop it, or name another folder.")
    assert caught.value.exit_code == 2
    assert first.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / ".x.lock"
    with another_process(f"hold_lock(Path({str(file)!r}), subject=Path('x'))") as first:
        first.kill()
        first.wait()
        assert json.loads(file.read_text())["pid"] == first.pid
    with hold_lock(file, subject=tmp_path / "x"):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert not file.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1}', "\0" * 9])
def test_a_damaged_lock_file_that_nobody_holds_is_taken_over(tmp_path: Path, content: str) -> None:
    file = tmp_path / ".x.lock"
    file.write_text(content)
    with hold_lock(file, subject=tmp_path):
        with pytest.raises(AftermixError, match=f"process {os.getpid()} on "), hold_lock(file, subject=tmp_path):
            pass
        file.write_text(content)
        with pytest.raises(AftermixError, match="another process works here"), hold_lock(file, subject=tmp_path):
            pass
    assert not file.exists()


def test_folders_made_for_the_lock_stay_when_something_came_into_them(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "a/b/.x.lock", subject=tmp_path):
        (tmp_path / "a/result").write_text("1")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "result"]


@pytest.mark.parametrize("name", ["file/.x.lock", ".link"])
def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / ".link").symlink_to(tmp_path / "file")
    message = r"x: cannot be written \(.*\). Free space, or name another folder."
    with pytest.raises(AftermixError, match=message), hold_lock(tmp_path / name, subject=tmp_path / "x"):
        pass
    assert (tmp_path / "file").read_text() == ""


def test_a_later_process_of_the_same_number_is_not_the_holder() -> None:
    mine = LockHolder(os.getpid(), socket.gethostname(), "x", "2999-01-01T00:00:00+00:00")
    assert mine.lives_here
    assert not LockHolder(os.getpid(), socket.gethostname(), "x", "2001-01-01T00:00:00+00:00").lives_here
    assert not LockHolder(os.getpid(), "elsewhere", "x", mine.started).lives_here


def test_a_shared_folder_goes_with_the_last_of_its_users(tmp_path: Path) -> None:
    folder = tmp_path / "made/.tokens"
    with another_process(f"share_folder(Path({str(folder)!r}))") as other:
        (folder / "kept").write_text("1")
        with share_folder(folder):
            pass
        assert (folder / "kept").exists()
    assert other.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "left"), [(TrainingError("a", "b", "c"), []), (OSError(), [".tokens"])])
def test_a_shared_folder_stays_for_whoever_goes_on(tmp_path: Path, error: Exception, left: list[str]) -> None:
    with pytest.raises(type(error)), share_folder(tmp_path / ".tokens"):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == left
