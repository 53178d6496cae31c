"""RUN/lost.jsonl: an account of the tries at a measurement that cost a worker."""

from __future__ import annotations

from pathlib import Path

from aftermix.files import append_line
from aftermix.runs.json_record import RunRecord

LOST_FILE = "lost.jsonl"


class LostAttemptRecord(RunRecord):
    """One line: a worker died, answered no more, or ran out of memory, and what it measured was given back."""

    label: str
    """Split and name of the measurement: of a trial `search items of 00012`."""
    worker: int
    """Number of the worker, from 0."""
    attempt: int
    """Number of the try, from 1."""
    reason: str
    """Words on how the worker ended."""


def note_lost_attempt(run: Path, lost: LostAttemptRecord) -> None:
    """Append a line to the account of the run in `run`."""
    append_line(run / LOST_FILE, lost.model_dump())


def read_lost_attempts(run: Path) -> list[LostAttemptRecord]:
    """All lines of the account; none where no worker was lost. A torn last line is left out."""
    path = run / LOST_FILE
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [LostAttemptRecord.parse(line, where=f"{path}, line {number}") for number, line in enumerate(lines, 1)]
