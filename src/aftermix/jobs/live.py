"""One living model and one task suite: what every measured merge of a job goes through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from aftermix.checkpoints.companions import tokenizer_folder
from aftermix.checkpoints.pool import Pool
from aftermix.config import EvaluateConfig, Split
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite
from aftermix.search.records import Measurement


@dataclass(frozen=True)
class LiveScorer:
    """An engine that holds the base's weights at first, and the tasks it is scored on."""

    engine: HuggingFaceEngine
    suite: TaskSuite

    @staticmethod
    def open(pool: Pool, config: EvaluateConfig, suite: TaskSuite) -> LiveScorer:
        """Load the frame's model, with the tokenizer that the result will have."""
        folder = pool.frame.folder
        return LiveScorer(HuggingFaceEngine.open(folder, tokenizer_folder=tokenizer_folder(pool), config=config), suite)

    def measure(
        self,
        tensors: Iterable[tuple[str, torch.Tensor]],
        split: Split,
        *,
        unchanged: frozenset[str] = frozenset(),
    ) -> Measurement:
        """Put `tensors` into the model and score it; `unchanged` names those that are not given because they stay."""
        started = perf_counter()
        self.engine.load(tensors, unchanged=unchanged)
        loaded = perf_counter()
        measured = self.suite.evaluate(self.engine.lm, split)
        return Measurement(measured.items, {"combine": loaded - started, "evaluate": perf_counter() - loaded})


def split_record(suite: TaskSuite) -> dict[str, Any]:
    """The items of each split by task, as `items/split.json` holds them."""
    return {
        name: {
            "search": list(items.search),
            "select": list(items.select),
            "test": list(items.test),
            "overlap": items.overlap,
            "note": items.note,
        }
        for name, items in suite.tasks.items()
    }
