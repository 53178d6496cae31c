"""The evaluation of a file, with the documents of its tasks that are texts: read as training data is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from aftermix.config import EvaluateConfig, TaskConfig
from aftermix.errors import AftermixError, EvaluationError, Problem, refuse_if_any
from aftermix.evaluation.engines.vllm.installed import refuse_unrun_vllm
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.evaluation.suites.opening import open_suite

if TYPE_CHECKING:
    from aftermix.evaluation.documents.text_task import TaskTexts

SET_FIELD = "Set `field:` of the task to the field with the text; conversations must be written out as text in one."


def open_task_suite(config: EvaluateConfig, *, equal_rows_together: bool = True) -> EvaluationSuite:
    """As :func:`~aftermix.evaluation.suites.opening.open_suite`, texts read from their files.

    Raises :class:`AftermixError` for these, too, and for an engine that cannot be used.
    """
    if config.engine == "vllm":
        refuse_unrun_vllm()
    return open_suite(config, equal_rows_together=equal_rows_together, texts=read_task_texts(config))


def read_task_texts(config: EvaluateConfig) -> dict[str, TaskTexts]:
    """Task -> its documents, for the tasks that are texts; of several faults all are told.

    Raises :class:`AftermixError` for files that are missing, unreadable or no text, and for records without the field.
    """
    found: dict[str, TaskTexts] = {}
    problems: list[Problem] = []
    for task in config.tasks:
        if task.text is not None:
            try:
                found[task.task] = _read_texts(task, Path(task.text))
            except AftermixError as error:
                problems += [_explain(task, problem) for problem in error.problems]
    refuse_if_any(problems)
    return found


def _read_texts(task: TaskConfig, path: Path) -> TaskTexts:
    from aftermix.evaluation.documents.text_task import TaskTexts
    from aftermix.training.data.examples import read_examples

    blank = 0

    def keep_filled() -> Iterator[str]:
        nonlocal blank
        for example in read_examples(path, text_field=task.field or "text", split=task.split):
            if example.text.strip():
                yield example.text
            else:
                blank += 1

    texts = tuple(islice(keep_filled(), task.limit))
    if not texts:
        found = f"holds no text: {blank} documents, all of them blank" if blank else "holds no document"
        raise EvaluationError(str(path), found, "Name files with documents.")
    return TaskTexts(str(path), texts, blank)


def _explain(task: TaskConfig, problem: Problem) -> Problem:
    """A fault of the files, told of the task, whose keys are its own."""
    of_fields = "`text_field:`" in problem.remedy or "`format:" in problem.remedy
    remedy = SET_FIELD if of_fields else problem.remedy.replace("`data:`", "`text:`")
    return Problem(f"task '{task.task}': {problem.where}", problem.found, remedy)
