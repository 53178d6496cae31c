"""`response.json` and `response.safetensors`: a fitted response, which predicts again without a refit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aftermix.runs.answers.arrays import ExpectedArray, read_arrays, write_arrays
from aftermix.runs.json_record import Finite, RunRecord
from aftermix.runs.trials import Setting

RESPONSE_FILE, ARRAYS_FILE = "response.json", "response.safetensors"
LEFT_OUT = ("predicted", "smooth", "measured")
"""Scores of the fitted trials: predicted without the trial, as the model smooths them, as measured."""
VARIANCES = 6
"""Logarithms of a kernel beside those of the lengths."""
Count = Annotated[int, Field(ge=0)]


class KernelRecord(RunRecord):
    """Logarithms of a kernel's variances, and of its length scales."""

    variances: Annotated[tuple[Finite, ...], Field(min_length=VARIANCES, max_length=VARIANCES)]
    lengths: tuple[Finite, ...]


class ScaleRecord(RunRecord):
    """Bounded transform of log-likelihoods; no `bound` where there is none."""

    level: Finite
    bound: Finite | None
    unit: Finite


class TemperedRecord(RunRecord):
    """Temperature of a task, and the line from its tempered score to the metric."""

    temperature: Finite
    slope: Finite
    intercept: Finite


class TaskResponseRecord(RunRecord):
    """A task of the response; a score that is predicted alone has a kernel of its own and nothing else."""

    used: Literal["loglikelihood", "score"]
    items: Count
    outputs: Count
    choices: bool
    scale: ScaleRecord | None
    tempered: TemperedRecord | None
    kernel: KernelRecord | None
    sampling: Annotated[Finite, Field(ge=0)] | None = None
    """Variance of the metric about the tempered score that drawing the items explains; absent in runs of old."""


class ResponseRecord(RunRecord):
    """`response.json`: everything of a response that is no array."""

    trials: tuple[Count, ...]
    """Trials that it was fitted to."""
    vectors: tuple[str, ...]
    normalised: bool
    numbers: tuple[str, ...]
    choices: dict[str, tuple[Setting, ...]]
    kernel: KernelRecord
    tasks: dict[str, TaskResponseRecord]
    placed: bool | None = None
    """True where weights depend on the place; else absent."""


ResponseArrays = dict[str, NDArray[Any]]
"""Arrays by name, each of one dimension."""


def write_response_files(run: Path, record: ResponseRecord, arrays: ResponseArrays) -> None:
    """Write both files of the run folder `run`, the record last."""
    write_arrays(run / ARRAYS_FILE, arrays)
    record.write(run / RESPONSE_FILE)


def read_response_files(run: Path) -> tuple[ResponseRecord, ResponseArrays]:
    """Both files of the run folder `run`. Raises :class:`AftermixError` for one that is missing or damaged."""
    record = ResponseRecord.read(run / RESPONSE_FILE)
    return record, read_arrays(run / ARRAYS_FILE, _expect_arrays(record), noun="a fitted response")


def _expect_arrays(record: ResponseRecord) -> dict[str, ExpectedArray]:
    merges = len(record.trials)
    expected = {
        "numbers": ExpectedArray(np.float64, merges * len(record.kernel.lengths)),
        "choices": ExpectedArray(np.int64, merges * len(record.choices)),
        "variances": ExpectedArray(np.float64, merges),
    }
    for name, task in record.tasks.items():
        expected |= {f"{name}/{key}": array for key, array in _expect_task_arrays(task, merges).items()}
    return expected


def _expect_task_arrays(task: TaskResponseRecord, merges: int) -> dict[str, ExpectedArray]:
    expected = {
        "whitened": ExpectedArray(np.float32, merges * task.outputs),
        "shares": ExpectedArray(np.float64, task.items),
        "documents": ExpectedArray(np.int64, task.items),
    }
    if task.choices:
        expected |= {
            "offsets": ExpectedArray(np.int64, task.items + 1),
            "gold": ExpectedArray(np.int64, task.items),
        }
    return expected | {key: ExpectedArray(np.float64, merges) for key in LEFT_OUT}
