"""lm-eval's task, whose documents are made once from the rows of its data set, from seeded generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import datasets
import lm_eval.tasks._factory
from lm_eval.api.task import ConfigurableTask

from aftermix.evaluation.documents.generators import GeneratorStates


@dataclass(frozen=True)
class MadeDocuments:
    """Documents that a task's `process_docs` made of one split."""

    rows: Any
    documents: Any
    states: GeneratorStates
    """Generators before they were made."""


class TracedTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval has no types
    """A task whose `process_docs` runs once for each split.

    lm-eval calls it for the few-shot examples, for the documents and again for the requests, and trusts the cache of
    `datasets` to give the same each time. That cache outlives the process, so what it holds was drawn from generators
    in another state; here it is not asked.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._made: dict[tuple[int, int], MadeDocuments] = {}
        super().__init__(*arguments, **options)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Load the data set as lm-eval does; documents are made after this."""
        super().download(dataset_kwargs, **options)
        for section in (self.config, self.fewshot_cfg):
            if section.process_docs is not None:
                section.process_docs = self._make_once(section.process_docs)

    def find_made(self, rows: Any) -> MadeDocuments | None:
        """Find the documents that the task's `process_docs` has made of `rows`, a split of the data set."""
        return self._made.get((id(getattr(self.config.process_docs, "__wrapped__", None)), id(rows)))

    def _make_once(self, process_docs: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @wraps(process_docs)
        def make(rows: Any) -> Any:
            key = id(process_docs), id(rows)
            if key not in self._made:
                states = GeneratorStates.capture()
                self._made[key] = MadeDocuments(rows, process_docs(rows), states)
            return self._made[key].documents

        return make


@contextmanager
def traced_tasks() -> Iterator[None]:
    """Let lm-eval build :class:`TracedTask` in place of its own class, without what `datasets` has cached of maps."""
    cached = datasets.is_caching_enabled()
    lm_eval.tasks._factory.ConfigurableTask = TracedTask
    datasets.disable_caching()

    try:
        yield
    finally:
        lm_eval.tasks._factory.ConfigurableTask = ConfigurableTask
        if cached:
            datasets.enable_caching()
