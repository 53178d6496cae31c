"""`EvaluationSuite`: what a search, a mixture and the other jobs ask of an evaluation, whoever scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aftermix.checkpoints.model import Model
from aftermix.config import EvaluateConfig, Split
from aftermix.errors import Problem
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.vllm.engine import VllmEngine
from aftermix.evaluation.fingerprints import TaskFingerprint
from aftermix.evaluation.harness import SuiteScores
from aftermix.evaluation.items import SPLITS, TaskItems
from aftermix.evaluation.places import ItemPlaces
from aftermix.runs.answers.requests import RequestTable, SplitRequests


@dataclass(frozen=True)
class FunctionIdentity:
    """Name of a user's own scorer, and `sha256:HEX` by path of the files that it lies in."""

    name: str
    files: Mapping[str, str]


class EvaluationSuite(Protocol):
    """Tasks with their items in three splits, and the way to score a model on them.

    `lm` is that of an engine which :meth:`open_engine` gave: its weights are exchanged from call to call.
    """

    @property
    def tasks(self) -> Mapping[str, TaskItems]:
        """Task -> its items by split."""

    @property
    def remarks(self) -> Sequence[Problem]:
        """Remarks on what makes scores mislead, which stop nothing."""

    @property
    def chat(self) -> bool:
        """True if a chat template applies to any task."""

    @property
    def function(self) -> FunctionIdentity | None:
        """The user's own scorer, None where lm-eval's tasks are scored."""

    @property
    def keeps_answers(self) -> bool:
        """True if measurements can come with answers; False where a task may have a score and no items."""

    def name_metrics(self) -> dict[str, str]:
        """Task -> the metric that counts, as `name,filter`."""

    def count_items(self) -> dict[str, dict[str, int]]:
        """Task -> split -> number of items."""

    def take_warnings(self) -> list[str]:
        """Lines on what was warned of since the last call, each kind once."""

    def open_engine(self, source: Model, *, tokenizer_folder: Path, config: EvaluateConfig) -> HuggingFaceEngine:
        """The model `source`, alive, with what this evaluation needs around it."""

    def rehearse(self, engine: HuggingFaceEngine | VllmEngine, config: EvaluateConfig, threads: int | None) -> None:
        """Try the scoring with the weights that the model has, and settle the number of threads (`threads`: of a run
        that goes on). Raises :class:`EvaluationError` for what cannot be scored, and not as the fault of a trial.
        """

    def evaluate(self, lm: Any, split: Split, *, keep: bool = False, places: ItemPlaces | None = None) -> SuiteScores:
        """Scores of the weights that `lm` has, on the items of `split` or on those at `places`."""

    def count_positions(self, lm: Any, split: Split, *, keeps_answers: bool, places: ItemPlaces | None = None) -> int:
        """Positions that such an evaluation computes; runs no model."""

    def count_tokens(self, split: Split, lm: Any) -> dict[str, int]:
        """Task -> tokens that the model is run on for `split`, each task alone."""

    def count_cut_prompts(self, lm: Any, splits: Sequence[Split] = SPLITS) -> dict[str, dict[Split, int]]:
        """Task -> split -> prompts that lose their beginning to the length of `lm`; none: no entry."""

    def measure_speed(self, lm: Any) -> float:
        """Tokens of :meth:`count_tokens` a second, on a sample."""

    def describe_sharing(self, lm: Any) -> str:
        """Words on how beginnings that prompts share are computed once; empty where there is nothing to tell."""

    def tabulate_requests(self, lm: Any) -> RequestTable | None:
        """Requests that kept log-likelihoods are of, in all splits; None where no answers are kept."""

    def adopt_requests(self, table: RequestTable) -> None:
        """Take over the requests of a run that goes on, so that they need not be found anew."""

    def list_split_requests(self, split: Split, lm: Any) -> Mapping[str, SplitRequests]:
        """Task -> its requests in `split`, as far as they are known without running a model."""

    def fingerprint_tasks(self, lm: Any) -> Mapping[str, TaskFingerprint]:
        """Task -> hashes of what decides its scores besides the model."""


def list_text_tasks(suite: EvaluationSuite) -> tuple[str, ...]:
    """Tasks that are scored in bits per byte: no share of their items is answered right."""
    return tuple(task for task, metric in suite.name_metrics().items() if metric.startswith("bits_per_byte,"))


def count_answered_items(suite: EvaluationSuite, split: Split = "test") -> dict[str, int]:
    """Task -> number of items of `split`, of the tasks whose items are answered, well or badly."""
    texts = list_text_tasks(suite)
    return {task: len(items.of(split)) for task, items in suite.tasks.items() if task not in texts}
