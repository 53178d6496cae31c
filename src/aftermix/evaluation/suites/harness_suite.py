"""lm-eval's tasks as jobs see an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from aftermix.checkpoints.model import Model
from aftermix.config import EvaluateConfig, Split
from aftermix.devices import choose_threads
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.plan_choice import describe_choices
from aftermix.evaluation.engines.positions import count_request_positions
from aftermix.evaluation.engines.vllm.engine import VllmEngine
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.items import SPLITS
from aftermix.evaluation.places import ItemPlaces
from aftermix.evaluation.quiet import quiet
from aftermix.evaluation.rehearsal import count_cut_prompts, list_sample_batches, score_first_items
from aftermix.evaluation.suites.contract import FunctionIdentity
from aftermix.runs.answers.requests import RequestTable, SplitRequests

SAMPLE_REQUESTS = 64
"""Requests of each kind and task by which speed is measured."""


@dataclass(frozen=True)
class HarnessSuite(TaskSuite):
    """A :class:`TaskSuite`, with what jobs ask besides scores."""

    @property
    def function(self) -> FunctionIdentity | None:
        """None: the user has no scorer of his own."""
        return None

    @property
    def keeps_answers(self) -> bool:
        """True: every task has requests."""
        return True

    def name_metrics(self) -> dict[str, str]:
        """Task -> the metric that counts, as `name,filter`."""
        return {task: str(metric) for task, metric in self.primary.items()}

    def take_warnings(self) -> list[str]:
        """Lines on what lm-eval warned of."""
        return self.heard.take_lines()

    def open_engine(self, source: Model, *, tokenizer_folder: Path, config: EvaluateConfig) -> HuggingFaceEngine:
        """The causal model `source`, alive."""
        return HuggingFaceEngine.open(source, tokenizer_folder=tokenizer_folder, config=config)

    def rehearse(self, engine: HuggingFaceEngine | VllmEngine, config: EvaluateConfig, threads: int | None) -> None:
        """Score the first items; of one CPU thread and all, the faster by three batches, unless it is settled."""
        import torch

        lm = engine.lm
        score_first_items(self, lm)
        if engine.runs_apart:  # its threads are bound as it starts
            return
        if config.threads == "auto" and threads is not None:
            torch.set_num_threads(threads)
        elif config.threads == "auto" and lm.device.type == "cpu":
            with quiet(self.heard):
                choose_threads(list_sample_batches(self, lm))

    def count_positions(self, lm: Any, split: Split, *, keeps_answers: bool, places: ItemPlaces | None = None) -> int:
        """Positions that `lm`, which may have no weights, computes for the items of `split`, references included.

        With `places` of the items there alone.
        """
        asked = [request for requests in self.list_requests(split, lm, places).values() for request in requests]
        references = self.list_references(split, lm, places) if keeps_answers else []
        return count_request_positions(lm, asked) + count_request_positions(lm, references)

    def count_cut_prompts(self, lm: Any, splits: Sequence[Split] = SPLITS) -> dict[str, dict[Split, int]]:
        """As :func:`~aftermix.evaluation.rehearsal.count_cut_prompts`."""
        return count_cut_prompts(self, lm, splits=splits)

    def measure_speed(self, lm: Any) -> float:
        """Speed on the first requests of every task, after one unmeasured run."""
        kinds: dict[str, list[Any]] = {}
        for instances in self.list_requests("search", lm).values():
            for instance in islice(instances, SAMPLE_REQUESTS):
                kinds.setdefault(instance.request_type, []).append(instance)

        for warm_up in (True, False):
            started, tokens = perf_counter(), lm.forwarded_tokens
            for kind, instances in kinds.items():
                getattr(lm, kind)(instances[: SAMPLE_REQUESTS // 4] if warm_up else instances, disable_tqdm=True)
        return float((lm.forwarded_tokens - tokens) / (perf_counter() - started))

    def describe_sharing(self, lm: Any) -> str:
        """Words on the plans of what is scored."""
        scored = {
            task: [request for request in instances if request.request_type == "loglikelihood"]
            for task, instances in self.list_requests("search", lm).items()
        }
        return describe_choices({task: lm.find_scoring_plan(each) for task, each in scored.items() if each})

    def adopt_requests(self, table: RequestTable) -> None:
        """Nothing: requests are built from the tasks, and compared with those of the run."""

    def list_split_requests(self, split: Split, lm: Any) -> Mapping[str, SplitRequests]:
        """Task -> its requests in `split`."""
        return {task: kept.requests for task, kept in self.keep_split(split, lm).tasks.items()}
