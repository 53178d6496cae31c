"""Kept answers by run and number: for whoever learns from them, and for runs that take those of another.

A run keeps answers if `items/requests.json` is there. Runs of earlier versions have none, and get none when they go on.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.config import Split
from aftermix.errors import AftermixError
from aftermix.runs.answers.candidate import KeptAnswers, locate_arrays, read_answers, read_likelihoods
from aftermix.runs.answers.requests import REQUESTS_FILE, TaskRequests, read_request_files
from aftermix.runs.journal import locate_items
from aftermix.runs.reader import LEVELS_FOLDER

NEW_RUN = "Start a new run: `aftermix search FILE -o NEW`."


def keeps_answers(run: Path) -> bool:
    """Tell whether the run in `run` keeps the answers of its candidates; a group of a tree does as its run does."""
    return (_find_owner(run) / REQUESTS_FILE).is_file()


def has_answers(run: Path, split: Split, number: int) -> bool:
    """Tell whether the log-likelihoods of trial `number` are there; those of an imported trial may not be."""
    return keeps_answers(run) and locate_arrays(locate_items(run, split, number)).is_file()


def read_requests(run: Path) -> dict[str, TaskRequests]:
    """Task -> requests of the run in `run`, or of the run of the tree whose group lies there.

    Raises :class:`AftermixError` for a run that keeps none, and for files that are damaged.
    """
    if not keeps_answers(run):
        raise AftermixError(str(run), "expected log-likelihoods, found a run that keeps none", NEW_RUN)
    return read_request_files(_find_owner(run))


def read_loglikelihoods(run: Path, split: Split, number: int) -> dict[str, NDArray[np.float32]]:
    """Task -> log-likelihoods of trial `number` on `split`, in the order of the requests.

    Raises :class:`AftermixError` for a run or trial without any, and for files that are damaged or of other requests.
    """
    items, table = locate_items(run, split, number), read_requests(run)
    answers = read_likelihoods(items, table, split, noun=_describe(split, number))
    return {task: of_task.loglikelihood for task, of_task in answers.items()}


def read_kept_answers(run: Path, split: Split, number: int) -> KeptAnswers | None:
    """All answers of trial `number`, None where there are none. Raises as :func:`read_loglikelihoods` does."""
    if not has_answers(run, split, number):
        return None
    return read_answers(locate_items(run, split, number), read_requests(run), split, noun=_describe(split, number))


def take_answers(
    source: Path, split: Split, number: int, *, run: Path, without: Collection[str] = ()
) -> KeptAnswers | None:
    """Answers of trial `number` of the run in `source`, if they are of the same requests as those of `run`.

    None where either keeps none, or a task of `run` is another there; tasks `without` which it is are left out.
    """
    if not (keeps_answers(run) and has_answers(source, split, number)):
        return None

    ours = {task: requests for task, requests in read_requests(run).items() if task not in without}
    theirs = read_requests(source)
    if any(task not in theirs or theirs[task] != requests for task, requests in ours.items()):
        return None
    answers = read_kept_answers(source, split, number)
    return {task: answers[task] for task in ours} if answers is not None else None


def _find_owner(run: Path) -> Path:
    return run.parent.parent if run.parent.name == LEVELS_FOLDER and not (run / REQUESTS_FILE).is_file() else run


def _describe(split: Split, number: int) -> str:
    return f"the log-likelihoods of trial {number} on {split} items"
