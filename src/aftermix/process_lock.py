"""One process at a time: a lock file that names its holder, and a folder that goes with the last of its users.

Both locks are the operating system's, so a killed process never leaves one behind. It leaves its file, which the next
process takes over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from aftermix.errors import AftermixError

HELD_ELSEWHERE = (errno.EAGAIN, errno.EACCES)
"""Codes for a lock that another process has. Any other means that this file system knows no locks."""


@dataclass(frozen=True)
class LockHolder:
    """A process, as it names itself in its lock file."""

    pid: int
    host: str
    command: str
    started: str
    """Local time with its zone, ISO 8601."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} works here since {self.started} ({self.command})"

    @property
    def lives_here(self) -> bool:
        """True when this machine has that process, and not a later one of the same number."""
        if self.host != socket.gethostname():
            return False
        try:
            began = psutil.Process(self.pid).create_time()
        except psutil.Error:
            return False
        return began <= datetime.fromisoformat(self.started).timestamp() + 1


@contextmanager
def hold_lock(file: Path, *, subject: Path) -> Iterator[None]:
    """Hold the lock `file` for this process alone while the block lasts; `subject` is what is worked on.

    The file names process, machine and command. It goes at the end, with folders that were made for it and hold nothing
    else. Raises :class:`AftermixError` when another process holds it, which writes nothing, and when it cannot be
    written.
    """
    absent = [folder for folder in file.parents if not folder.exists()]
    handle = _open_locked(file, subject)
    try:
        _write_holder(handle, subject)
        yield
    finally:
        file.unlink(missing_ok=True)  # before it is given back: what lies there is held, or left by a killed process
        os.close(handle)
        _remove_empty(absent)


def refuse_held(file: Path, *, subject: Path) -> None:
    """Raise :class:`AftermixError` naming the process that holds the lock `file`, if one does; nothing is written."""
    if not file.is_file():
        return
    handle = os.open(file, os.O_RDONLY)
    try:
        _lock_or_refuse(handle, subject)
    finally:
        os.close(handle)


def _open_locked(file: Path, subject: Path) -> int:
    """A handle of `file`, locked; made with its folders where it is not there."""
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise _build_write_error(subject, error) from error

        try:
            _lock_or_refuse(handle, subject)
        except BaseException:
            os.close(handle)
            raise

        # Another process may have removed the file between its opening and its locking.
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)


def _lock_or_refuse(handle: int, subject: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except OSError as error:
        holder = _read_holder(handle)
        # Some network file systems have no locks: then a process of this machine alone can be told to be alive.
        if error.errno not in HELD_ELSEWHERE and not (holder and holder.lives_here):
            return

    found = str(holder) if holder else "another process works here"
    raise AftermixError(str(subject), found, "Wait for it or stop it, or name another folder.")


def _read_holder(handle: int) -> LockHolder | None:
    try:
        return LockHolder(**json.loads(os.pread(handle, 1 << 16, 0)))
    except (ValueError, TypeError):  # not written yet
        return None


def _write_holder(handle: int, subject: Path) -> None:
    program = Path(sys.argv[0]).name
    arguments = ["aftermix" if program == "__main__.py" else program, *sys.argv[1:]]
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = LockHolder(os.getpid(), socket.gethostname(), shlex.join(arguments), started)

    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(holder)).encode(), 0)
    except OSError as error:
        raise _build_write_error(subject, error) from error


def _build_write_error(subject: Path, error: OSError) -> AftermixError:
    found = f"cannot be written ({error.strerror or error})"
    return AftermixError(str(subject), found, "Free space, or name another folder.")


def _remove_empty(folders: list[Path]) -> None:
    """Remove `folders`, the innermost first, as far as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


@contextmanager
def share_folder(folder: Path) -> Iterator[None]:
    """A folder of temporary files of any number of processes: made by the first, removed at the end by the last.

    An exception keeps it for whoever goes on, but a refusal leaves no folder behind that was not there. Raises
    :class:`AftermixError` when it cannot be made.
    """
    was_there = folder.exists()
    absent = [place for place in folder.parents if not place.exists()]
    handle = _open_shared(folder)

    done = False
    try:
        yield
        done = True
    except AftermixError as error:
        done = error.exit_code == AftermixError.exit_code and not was_there
        raise
    finally:
        if done and _try_lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(absent)
        os.close(handle)


def _open_shared(folder: Path) -> int:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise _build_write_error(folder, error) from error

        _try_lock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_nlink:  # else the last user removed it just then
            return handle
        os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    """False when others have a lock; a file system without locks cannot tell."""
    try:
        fcntl.flock(handle, kind)
    except OSError as error:
        return error.errno not in HELD_ELSEWHERE
    return True
