"""RUN/trials.jsonl: the only truth about a search.

A trial is first measured, then its answers, if the run keeps them, and its item scores are written beside (each file
atomically), then one line is appended and forced to disk. A process killed at any instant leaves whole lines and at
most one torn last line, which readers ignore and a resumed search cuts off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from aftermix.config import Split
from aftermix.errors import SearchError
from aftermix.files import append_line, write_atomically, write_json
from aftermix.runs.answers.candidate import KeptAnswers, write_answers
from aftermix.runs.trials import ItemScores, Trial, dump_items, dump_trial, parse_items, parse_trial

TRIALS_FILE = "trials.jsonl"


def locate_items(folder: Path, split: Split, number: int) -> Path:
    """Path of the item scores of one trial.

    >>> locate_items(Path("RUN"), "search", 12).as_posix()
    'RUN/items/search/00012.json'
    """
    return folder / "items" / split / f"{number:05d}.json"


def read_trials(folder: Path) -> list[Trial]:
    """The trials that have ended, in order. A torn last line is ignored; a missing file is an empty journal.

    Raises :class:`SearchError` naming the line that is damaged or out of order.
    """
    path = folder / TRIALS_FILE
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")[:-1]
    return [_parse(line, number=number, path=path) for number, line in enumerate(lines)]


def _parse(line: bytes, *, number: int, path: Path) -> Trial:
    where = f"{path}, line {number + 1}"
    remedy = "Restore the file from a backup, or delete this line and all after it, and resume."
    try:
        trial = parse_trial(line)
    except ValueError as error:
        detail = " ".join(str(error).split())
        raise SearchError(where, f"expected the record of trial {number}, found {detail}", remedy) from error
    if trial.number != number:
        raise SearchError(where, f"expected trial {number}, found trial {trial.number}", remedy)
    return trial


def reopen(folder: Path) -> list[Trial]:
    """Like :func:`read_trials`, and cut a torn last line off so that the next line starts afresh."""
    trials = read_trials(folder)
    path = folder / TRIALS_FILE
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(file.fileno())
    return trials


def append_trial(folder: Path, trial: Trial, items: ItemScores | None, *, answers: KeptAnswers | None = None) -> None:
    """Write `answers` and `items` (if the trial has any), then the line: a line never lacks its items."""
    if items is not None:
        write_items(locate_items(folder, "search", trial.number), items, answers=answers)
    append_line(folder / TRIALS_FILE, dump_trial(trial))


def write_imported(
    folder: Path,
    trials: Iterable[Trial],
    items: Mapping[tuple[Split, int], ItemScores],
    *,
    answers_of: Callable[[Split, int], KeptAnswers | None] = lambda *_: None,
) -> None:
    """Begin a journal with trials of another run: all of them or, if killed on the way, none.

    `answers_of` gives the answers of each, by split and new number, where they can be taken.
    """
    for (split, number), scores in items.items():
        write_items(locate_items(folder, split, number), scores, answers=answers_of(split, number))
    lines = (json.dumps(dump_trial(trial), ensure_ascii=False, allow_nan=False) for trial in trials)
    write_atomically(folder / TRIALS_FILE, "".join(f"{line}\n" for line in lines))


def write_items(path: Path, items: ItemScores, *, answers: KeptAnswers | None = None) -> None:
    """Write the answers that item scores are of, then the scores, each file atomically."""
    if answers is not None:
        write_answers(path, answers)
    write_json(path, dump_items(items))


def read_items(folder: Path, split: Split, number: int) -> ItemScores:
    """The item scores of one trial. Raises :class:`SearchError` if the file is missing or damaged."""
    return read_items_file(locate_items(folder, split, number), noun=f"the {split} item scores of trial {number}")


def read_items_file(path: Path, *, noun: str = "item scores") -> ItemScores:
    """The item scores in the file `path`. Raises :class:`SearchError` if it is missing or damaged."""
    try:
        return parse_items(path.read_bytes())
    except (OSError, ValueError) as error:
        found = f"expected {noun}, found {' '.join(str(error).split())}"
        raise SearchError(str(path), found, "Restore the file from a backup, or start a new run.") from error
