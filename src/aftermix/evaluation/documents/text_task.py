"""Any texts as a task of lm-eval: each document is scored whole, in bits per byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from aftermix.errors import EvaluationError
from aftermix.evaluation.equal_items import SPLITS

FIELD = "text"
"""Column of the documents, whatever the files call it: equal texts of two tasks are equal rows."""


@dataclass(frozen=True)
class TaskTexts:
    """Documents of one task in the order of its files, none of them blank."""

    path: str
    """Files that they are from, as the configuration names them."""
    texts: tuple[str, ...]
    blank: int = 0
    """Documents of white space alone, or of nothing, which are left out."""

    @property
    def note(self) -> str | None:
        """Words on what is left out; None for nothing."""
        noun = "document" if self.blank == 1 else "documents"
        return f"{self.blank} blank {noun} left out" if self.blank else None


TextsByTask = Mapping[str, TaskTexts]
"""Task -> its documents, for the tasks of a file that are texts."""


class TextTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval has no types
    """A task whose documents are texts: its metric is lm-eval's `bits_per_byte` over their UTF-8 bytes."""

    def __init__(self, name: str, texts: TaskTexts) -> None:
        self._texts = texts
        settings = {
            "task": name,
            "output_type": "loglikelihood_rolling",
            "test_split": "test",
            "doc_to_text": "",
            "doc_to_target": FIELD,
            "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
            "num_fewshot": 0,
        }
        super().__init__(config=settings)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:  # noqa: ARG002
        """Take the documents that are at hand."""
        documents = datasets.Dataset.from_dict({FIELD: list(self._texts.texts)})
        self.dataset = datasets.DatasetDict({"test": documents})


def build_text_task(name: str, texts: TaskTexts) -> TextTask:
    """The task `name` of `texts`. Raises :class:`EvaluationError` where a split would have no document."""
    if len(texts.texts) < len(SPLITS):
        found = (
            f"expected {len(SPLITS)} documents or more, one each to search, select and test on, found "
            f"{len(texts.texts)} in {texts.path}"
        )
        remedy = "A plain text file is one document: name a folder or pattern of several, or JSON lines, one a line."
        raise EvaluationError(f"task '{name}'", found, remedy)
    return TextTask(name, texts)
