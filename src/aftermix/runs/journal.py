"""RUN/trials.jsonl and RUN/proposals.jsonl: the only truth about a search.

Points are proposed in batches: all lines of a batch are appended and forced to disk before its first point is measured.
A trial is first measured, then its answers, if the run keeps them, and its item scores are written beside (each file
atomically), then one line is appended and forced to disk. A process killed at any instant leaves whole lines and at
most one torn last line, which readers ignore and a resumed search cuts off, with the other lines of a batch that is
not whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from aftermix.config import Split
from aftermix.errors import SearchError
from aftermix.files import append_line, append_lines, format_lines, write_atomically, write_json
from aftermix.runs.answers.blocks import discard_blocks
from aftermix.runs.answers.candidate import KeptAnswers, write_answers
from aftermix.runs.trials import (
    ItemScores,
    ProposedPoint,
    Trial,
    dump_items,
    dump_proposal,
    dump_trial,
    parse_items,
    parse_proposal,
    parse_trial,
)

Entry = TypeVar("Entry", Trial, ProposedPoint)
TRIALS_FILE = "trials.jsonl"
PROPOSALS_FILE = "proposals.jsonl"
REMEDY = "Restore the file from a backup, or delete this line and all after it, and resume."


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
    trials = list[Trial]()
    for number, (where, line) in enumerate(_read_lines(folder / TRIALS_FILE)):
        trial = _parse(line, parse_trial, where=where, noun=f"trial {number}")
        if trial.number != number:
            raise SearchError(where, f"expected trial {number}, found trial {trial.number}", REMEDY)
        trials.append(trial)
    return trials


def read_proposals(folder: Path) -> list[ProposedPoint]:
    """The proposed points of all batches that are whole, by number. A missing file holds none.

    The last batch is left out where its write was cut. Raises as :func:`read_trials` does.
    """
    points = list[ProposedPoint]()
    for where, line in _read_lines(folder / PROPOSALS_FILE):
        least = points[-1].number + 1 if points else 0  # imported trials have no line, nor have lost batches
        point = _parse(line, parse_proposal, where=where, noun=f"point {least}")
        if point.number < least:
            raise SearchError(where, f"expected point {least}, found point {point.number}", REMEDY)
        points.append(point)

    batches = [list(members) for _, members in groupby(points, key=lambda point: point.batch)]
    return [point for members in batches if len(members) == members[0].size for point in members]


def _read_lines(path: Path) -> list[tuple[str, bytes]]:
    """Whole lines of `path`, each with its place; none where there is no such file."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]


def _parse(line: bytes, parse: Callable[[bytes], Entry], *, where: str, noun: str) -> Entry:
    try:
        return parse(line)
    except ValueError as error:
        detail = " ".join(str(error).split())
        raise SearchError(where, f"expected the record of {noun}, found {detail}", REMEDY) from error


def reopen(folder: Path) -> list[Trial]:
    """Like :func:`read_trials`, and cut a torn last line off so that the next line starts afresh."""
    trials = read_trials(folder)
    path = folder / TRIALS_FILE
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(file.fileno())
    if trials:  # killed between the line and this
        discard_blocks(locate_items(folder, "search", trials[-1].number))
    return trials


def reopen_proposals(folder: Path, *, ended: int) -> list[ProposedPoint]:
    """The points that are proposed and not among the `ended` first trials: those of one batch, which are next.

    The file is cut to what was read: without a batch whose write was cut, and without batches proposed from trials
    that the journal has lost, which are all after the one that is open.
    """
    points = read_proposals(folder)
    opened = [point for point in points if point.number >= ended]
    opened = [point for point in opened if opened[0].number == ended and point.batch == opened[0].batch]
    kept = [point for point in points if point.number < ended] + opened

    path, content = folder / PROPOSALS_FILE, format_lines(map(dump_proposal, kept)).encode()
    if path.exists() and path.read_bytes() != content:
        write_atomically(path, content)
    return opened


def append_batch(folder: Path, points: Sequence[ProposedPoint]) -> None:
    """Append the points of a batch, all in one write."""
    append_lines(folder / PROPOSALS_FILE, map(dump_proposal, points))


def append_trial(folder: Path, trial: Trial, items: ItemScores | None, *, answers: KeptAnswers | None = None) -> None:
    """Write `answers` and `items` (if the trial has any), then the line: a line never lacks its items."""
    if items is not None:
        write_items(locate_items(folder, "search", trial.number), items, answers=answers)
    append_line(folder / TRIALS_FILE, dump_trial(trial))
    discard_blocks(locate_items(folder, "search", trial.number))


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
    write_atomically(folder / TRIALS_FILE, format_lines(map(dump_trial, trials)))


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
