"""A run from its first write to its report: one process alone, and an end that says what is kept.

The rule of exit codes stands here. What is raised before the first write is a refusal: it leaves no file that was not
there. What is raised after it becomes one error with exit code 1 that tells what is kept.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from aftermix.errors import AftermixError, RunFailedError, SearchError, ask_meant_path
from aftermix.process_lock import hold_lock, refuse_held
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.journal import TRIALS_FILE

LOCK = ".lock"
"""In the run folder, while a process works there: its number, machine, command and when it began."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")
"""Python's and PyTorch's."""


@dataclass
class RunSession:
    """One process at work on the run in `run`."""

    run: Path
    has_begun: bool = False
    """True once a file of the run was written: from then on an error is a stop."""
    _locks: ExitStack = field(default_factory=ExitStack)

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Hold a new run while its first files are written in the block; where that fails, none of them stays.

        Raises :class:`AftermixError` when another process holds the folder, it is not empty, or cannot be written.
        """
        self._hold()
        if any(entry.name != LOCK for entry in self.run.iterdir()):
            raise SearchError(
                str(self.run), "exists and is not empty", "Name a new folder, or remove this one yourself."
            )
        try:
            yield
        except BaseException as error:
            for entry in self.run.iterdir():
                if entry.name != LOCK:
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
            if isinstance(error, OSError):
                found = f"cannot be written ({error.strerror or error})"
                remedy = "Free space or name another folder; nothing was left behind."
                raise SearchError(str(self.run), found, remedy) from error
            raise
        self.has_begun = True

    def go_on(self) -> None:
        """Say that all is checked: the files of a run that is resumed may be written from here on."""
        self.has_begun = True

    def _hold(self) -> None:
        self._locks.enter_context(hold_lock(self.run / LOCK, subject=self.run))


_sessions: ContextVar[tuple[RunSession, ...]] = ContextVar("sessions", default=())
"""Sessions of the jobs around this one: a job of theirs works under their lock."""


@contextmanager
def open_session(run: Path, *, resume: bool) -> Iterator[RunSession]:
    """The work of one job on `run`, up to its report.

    A run that is resumed is held from here on, a new one from :meth:`RunSession.begin`. Within the block of another
    session of the same run it is that session. Raises :class:`AftermixError` when another process works there or there
    is no run to resume; and turns what is raised in the block after the first write into a :class:`RunFailedError`.
    """
    around = next((session for session in _sessions.get() if session.run == run), None)
    if around is not None:
        yield around
        return

    session = RunSession(run)
    with session._locks:
        if resume:
            refuse_no_run(run)
            session._hold()
        else:
            refuse_held(run / LOCK, subject=run)
        token = _sessions.set((*_sessions.get(), session))
        try:
            yield session
        except Exception as error:
            stop = _explain_stop(run, error) if session.has_begun else error
            if stop is error:
                raise
            raise stop from error
        finally:
            _sessions.reset(token)


def refuse_no_run(run: Path) -> None:
    """Raise :class:`SearchError` when `run` is no run folder."""
    if not (run / CONFIG_FILE).is_file():
        remedy = ask_meant_path("Name a folder that `aftermix search` made.", run)
        raise SearchError(str(run), f"is not a run: it has no {CONFIG_FILE}", remedy)


def describe_kept(run: Path) -> str:
    """Text on what `run` holds for whoever goes on.

    Trials are counted by lines: this is said of runs whose journal is damaged, too.
    """
    journals = [run / TRIALS_FILE, *sorted(run.glob(f"levels/*/{TRIALS_FILE}"))]
    count = sum(file.read_bytes().count(b"\n") for file in journals if file.is_file())
    return f"{count} trial{'' if count == 1 else 's'} and every finished measurement, in {run}"


def _explain_stop(run: Path, error: Exception) -> Exception:
    """The error that ends a run which had begun; `error` itself, with a note, where it is none that a user can mend."""
    kept = describe_kept(run)
    if isinstance(error, RunFailedError):
        error.kept = error.kept or kept
        return error

    cause = error.__cause__ if isinstance(error, AftermixError) else error
    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
        where = error.problem.where if isinstance(error, AftermixError) else str(cause.filename or run)
        found = f"cannot be written ({cause.strerror or cause})"
        return RunFailedError(where, found, "Free space, then go on.", kept=kept)

    if isinstance(error, AftermixError):
        return RunFailedError.from_refusal(error, kept=kept)
    if isinstance(error, OSError) and error.strerror is not None:
        return RunFailedError(str(error.filename or run), error.strerror, "Mend that, then go on.", kept=kept)
    if type(error).__name__ in OUT_OF_MEMORY:
        found = f"out of memory ({error})" if str(error) else "out of memory"
        return RunFailedError(str(run), found, "Free memory or lower `evaluate.batch_size`, then go on.", kept=kept)

    error.add_note(f"kept: {kept}")
    return error
