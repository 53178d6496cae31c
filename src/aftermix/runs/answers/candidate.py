"""Answers of one candidate on one split, in files beside its item scores.

`NNNNN.safetensors` holds `TASK/loglikelihood` and `TASK/greedy`, `NNNNN.answers.jsonl.gz` what was generated. Both are
there before the file of the scores, whose being there says that the measurement has ended.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.config import Split
from aftermix.errors import AftermixError
from aftermix.files import write_atomically
from aftermix.runs.answers.arrays import RESTORE, ExpectedArray, read_arrays, write_arrays
from aftermix.runs.answers.requests import RequestTable
from aftermix.runs.json_record import RunRecord

ANSWERS_SUFFIX = ".answers.jsonl.gz"
LIKELIHOOD, GREEDY = "loglikelihood", "greedy"


class GeneratedAnswerRecord(RunRecord):
    """A line of `NNNNN.answers.jsonl.gz`: an answer as it was generated, before any filter."""

    task: str
    item: str
    text: str


@dataclass(frozen=True, eq=False)
class TaskAnswers:
    """Answers to the kept requests of one task, in their order."""

    loglikelihood: NDArray[np.float32]
    """NaN where the model gives none for the reference of a generated answer."""
    greedy: NDArray[np.uint8]
    """1 where greedy decoding would give the continuation."""
    generated: tuple[tuple[str, str], ...] = ()
    """(item, text) of each generated answer."""


KeptAnswers = Mapping[str, TaskAnswers]
"""Task -> answers of a candidate."""


def locate_arrays(items: Path) -> Path:
    """The file of log-likelihoods beside the file `items` of item scores."""
    return items.with_suffix(".safetensors")


def write_answers(items: Path, answers: KeptAnswers) -> None:
    """Write the answers of a candidate beside the file `items` of its item scores, which is to be written next."""
    arrays: dict[str, NDArray[np.float32] | NDArray[np.uint8]] = {}
    for task, of_task in answers.items():
        arrays[f"{task}/{LIKELIHOOD}"] = of_task.loglikelihood
        arrays[f"{task}/{GREEDY}"] = of_task.greedy
    write_arrays(locate_arrays(items), arrays)

    lines = [
        json.dumps({"task": task, "item": item, "text": text}, ensure_ascii=False) + "\n"
        for task, of_task in answers.items()
        for item, text in of_task.generated
    ]
    if lines:  # no time in the file: the same answers are the same bytes
        content = "".join(lines).encode(errors="replace")
        write_atomically(items.with_suffix(ANSWERS_SUFFIX), gzip.compress(content, mtime=0))


def read_likelihoods(
    items: Path, table: RequestTable, split: Split, *, noun: str, in_part: bool = False
) -> dict[str, TaskAnswers]:
    """The answers beside the file `items` but for generated texts.

    Raises :class:`AftermixError` naming `noun` for a file that is missing or damaged, for arrays that are not those of
    `table`, and for a log-likelihood of a choice that is no number, unless it is NaN `in_part` of the items.
    """
    path = locate_arrays(items)
    expected = {
        f"{task}/{part}": ExpectedArray(dtype, requests.splits[split].requests)
        for task, requests in table.items()
        for part, dtype in ((LIKELIHOOD, np.float32), (GREEDY, np.uint8))
    }
    arrays = read_arrays(path, expected, noun=noun)

    for task, requests in table.items():
        values = arrays[f"{task}/{LIKELIHOOD}"]
        bad = np.flatnonzero(np.isinf(values) if in_part else ~np.isfinite(values))
        if requests.kind == "choice" and len(bad):
            found = f"expected finite numbers, found {values[bad[0]]} at request {bad[0]}"
            raise AftermixError(f"{path}: {task}/{LIKELIHOOD}", found, RESTORE)
    return {task: TaskAnswers(arrays[f"{task}/{LIKELIHOOD}"], arrays[f"{task}/{GREEDY}"]) for task in table}


def read_answers(
    items: Path, table: RequestTable, split: Split, *, noun: str, in_part: bool = False
) -> dict[str, TaskAnswers]:
    """The answers beside the file `items`, generated texts included. Raises as :func:`read_likelihoods` does."""
    answers = read_likelihoods(items, table, split, noun=noun, in_part=in_part)
    generated: dict[str, list[tuple[str, str]]] = {task: [] for task in table}

    path = items.with_suffix(ANSWERS_SUFFIX)
    for number, line in enumerate(_read_lines(path), 1):
        record = GeneratedAnswerRecord.parse(line, where=f"{path}, line {number}")
        if record.task not in generated:
            found = f"expected a task of this run, found '{record.task}'"
            raise AftermixError(f"{path}, line {number}", found, RESTORE)
        generated[record.task].append((record.item, record.text))
    return {
        task: TaskAnswers(each.loglikelihood, each.greedy, tuple(generated[task])) for task, each in answers.items()
    }


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        return gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise AftermixError(str(path), f"expected generated answers, found {error}", RESTORE) from error
