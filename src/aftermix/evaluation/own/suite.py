"""A function of the user's own as jobs see an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from aftermix import progress
from aftermix.checkpoints.model import Model
from aftermix.config import EvaluateConfig, Split
from aftermix.errors import Problem
from aftermix.evaluation.documents.canonical import encode_document
from aftermix.evaluation.documents.generators import own_generators
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.vllm.engine import VllmEngine
from aftermix.evaluation.fingerprints import TaskFingerprint, hash_texts
from aftermix.evaluation.harness import SuiteScores
from aftermix.evaluation.items import SPLITS, TaskItems
from aftermix.evaluation.own.function import OwnFunction, open_function
from aftermix.evaluation.own.items import TaskIds, build_whole_items, list_own_items, split_own_items
from aftermix.evaluation.own.results import (
    OwnResults,
    OwnTaskResult,
    check_results,
    check_whole_results,
    describe_kind,
    refuse_other_choices,
    refuse_other_kind,
)
from aftermix.evaluation.own.scored_model import ScoredModel
from aftermix.evaluation.own.steadiness import refuse_unsteady
from aftermix.evaluation.places import ItemPlaces
from aftermix.evaluation.suites.contract import FunctionIdentity
from aftermix.runs.answers.candidate import KeptAnswers, TaskAnswers
from aftermix.runs.answers.requests import AnswerKind, RequestTable, SplitRequests, TaskRequests
from aftermix.runs.item_scores import WholeScore

SAMPLED_ITEMS = 32
"""Items of a task on which the base is scored twice."""


@dataclass
class _Rehearsed:
    """Findings of the first calls, and of the requests of a run."""

    kinds: dict[str, str] = field(default_factory=dict)
    """Task -> kind of its results, the same at every call."""
    positions: dict[str, float] = field(default_factory=dict)
    """Task -> positions an item."""
    seconds: float = 0.0
    """Of scoring the sample."""
    table: RequestTable | None = None
    is_told: bool = False


@dataclass(frozen=True)
class OwnSuite:
    """Tasks of a user's own scorer, with the items that it lists, or scored whole."""

    scorer: OwnFunction
    ids: TaskIds | None
    """None where the scorer lists no items."""
    tasks: Mapping[str, TaskItems]
    _engines: list[HuggingFaceEngine] = field(default_factory=list, repr=False)
    _known: _Rehearsed = field(default_factory=_Rehearsed, repr=False)

    @staticmethod
    def build(config: EvaluateConfig) -> OwnSuite:
        """Read the function and its items, before any model is loaded.

        `tasks` of the file, which must be there where the function lists no items, are its tasks. Raises
        :class:`EvaluationError` for whatever is wrong with the file, its functions or their items.
        """
        assert config.function is not None  # noqa: S101 - the caller looked
        scorer = open_function(config.function)
        tasks = [task.task for task in config.tasks]
        if scorer.list_items is None:
            return OwnSuite(scorer, None, build_whole_items(tasks))
        ids = list_own_items(scorer, tasks)
        return OwnSuite(scorer, ids, split_own_items(ids, config))

    def find_tasks(self, engine: HuggingFaceEngine) -> list[str]:
        """Its tasks; where neither file nor function names any, those that it scores with the weights of `engine`."""
        if self.tasks:
            return list(self.tasks)
        where = self.scorer.name
        return list(check_whole_results(self._call(engine.lm, "search"), where=where))

    @property
    def remarks(self) -> Sequence[Problem]:
        """None: of a stranger's function nothing is known before it runs."""
        return ()

    @property
    def chat(self) -> bool:
        """False: the function makes its own prompts."""
        return False

    @property
    def function(self) -> FunctionIdentity | None:
        """Name and hashes of the function."""
        return FunctionIdentity(self.scorer.name, self.scorer.files)

    @property
    def keeps_answers(self) -> bool:
        """True if every task has items, as far as the calls so far tell."""
        return self.ids is not None and "one number" not in self._known.kinds.values()

    def name_metrics(self) -> dict[str, str]:
        """The function is the metric of all tasks."""
        return dict.fromkeys(self.tasks, self.scorer.name)

    def count_items(self) -> dict[str, dict[str, int]]:
        """Task -> split -> number of items."""
        return {name: {split: len(items.of(split)) for split in SPLITS} for name, items in self.tasks.items()}

    def take_warnings(self) -> list[str]:
        """None: nobody listens to the function."""
        return []

    def open_engine(self, source: Model, *, tokenizer_folder: Path, config: EvaluateConfig) -> HuggingFaceEngine:
        """The model `source` of the class that the file names, alive."""
        engine = HuggingFaceEngine.open_scored(source, tokenizer_folder=tokenizer_folder, config=config)
        self._engines.append(engine)
        return engine

    def rehearse(self, engine: HuggingFaceEngine | VllmEngine, config: EvaluateConfig, threads: int | None) -> None:
        """Score the first items of each task alone, then all of them together, and hold the two against each other.

        The number of threads is the file's, else that of the run that goes on (`threads`), else what torch has. Raises
        :class:`EvaluationError` for what is no result, and for scores that are not the same twice.
        """
        if config.threads == "auto" and threads is not None:
            torch.set_num_threads(threads)

        lm, started = engine.lm, perf_counter()
        sample, first = self._choose_sample(), dict[str, OwnTaskResult]()
        for task in self.tasks if self.ids is not None else ():
            before = lm.computed_positions
            first |= self._score(lm, "search", {task: sample[task]})
            self._known.positions[task] = (lm.computed_positions - before) / len(sample[task])
        if self.ids is None:
            before = lm.computed_positions
            first = self._score(lm, "search", None)
            self._known.positions = dict.fromkeys(self.tasks, (lm.computed_positions - before) / len(self.tasks))

        self._known.seconds = perf_counter() - started
        second = self._score(lm, "search", sample if self.ids is not None else None)
        for line in refuse_unsteady(first, second, where=self.scorer.name):
            progress.warn(line)
        self._tell_unused(lm)

    def evaluate(self, lm: Any, split: Split, *, keep: bool = False, places: ItemPlaces | None = None) -> SuiteScores:
        """Scores of the weights that `lm` has; of other items than those at `places` there is none.

        Raises :class:`EvaluationError` for whatever the function does wrong, and :class:`InputFaultError` where a file
        that it reads is not there.
        """
        before = lm.computed_positions
        asked = {task: ids for task in self.tasks if (ids := self._place(split, task, places)) or places is None}
        results = self._score(lm, split, None if self.ids is None else asked)
        scores: dict[str, list[float | None]] = {
            task: [None] * len(items.of(split)) for task, items in self.tasks.items() if task not in asked
        }
        scores |= {task: self._spread_scores(split, task, result, places) for task, result in results.items()}
        return SuiteScores(
            items=scores,
            metrics={},
            tokens=lm.computed_positions - before,
            answers=self._collect_answers(split, results, places) if keep and self._known.table is not None else None,
        )

    def count_positions(self, lm: Any, split: Split, *, keeps_answers: bool, places: ItemPlaces | None = None) -> int:
        """Positions by those of the sample, an item of each task; at least one for every item."""
        del lm, keeps_answers
        total = sum(
            max(1.0, self._known.positions.get(task, 0.0)) * len(self._place(split, task, places))
            for task in self.tasks
        )
        return math.ceil(total)

    def count_tokens(self, split: Split, lm: Any) -> dict[str, int]:
        """As :meth:`count_positions`, by task."""
        del lm
        return {
            task: math.ceil(max(1.0, self._known.positions.get(task, 0.0)) * len(items.of(split)))
            for task, items in self.tasks.items()
        }

    def count_cut_prompts(self, lm: Any, splits: Sequence[Split] = SPLITS) -> dict[str, dict[Split, int]]:
        """None that is known."""
        del lm, splits
        return {}

    def measure_speed(self, lm: Any) -> float:
        """Tokens of :meth:`count_tokens` a second, as the sample took."""
        del lm
        sample = self._choose_sample()
        tokens = sum(max(1.0, each) * len(sample[task]) for task, each in self._known.positions.items())
        return tokens / max(self._known.seconds, 1e-9)

    def describe_sharing(self, lm: Any) -> str:
        """Nothing: prompts are the function's own."""
        del lm
        return ""

    def adopt_requests(self, table: RequestTable) -> None:
        """Hold results against the numbers of choices, and the right ones, of a run that goes on."""
        self._known.table = table

    def tabulate_requests(self, lm: Any) -> RequestTable | None:
        """Numbers of choices and right ones of all items; None where a task is scored whole.

        Where the function gives log-likelihoods, the weights that `lm` has are scored once on all items for it.
        """
        if not self.keeps_answers or self._known.table is not None:
            return self._known.table if self.keeps_answers else None

        parts: dict[Split, OwnResults] = {}
        if any("log-likelihoods" in kind for kind in self._known.kinds.values()):
            for split in progress.bar(SPLITS, label="Right answers", unit="split"):
                parts[split] = self._score(lm, split, {task: self._place(split, task, None) for task in self.tasks})
        self._known.table = {
            task: _build_requests(self.scorer.name, items, {split: parts[split][task] for split in parts})
            for task, items in self.tasks.items()
        }
        return self._known.table

    def list_split_requests(self, split: Split, lm: Any) -> Mapping[str, SplitRequests]:
        """Requests as :meth:`tabulate_requests` found them, before it items alone."""
        del lm
        if self._known.table is not None:
            return {task: requests.splits[split] for task, requests in self._known.table.items()}
        return {task: _build_split(len(items.of(split)), None) for task, items in self.tasks.items()}

    def fingerprint_tasks(self, lm: Any) -> Mapping[str, TaskFingerprint]:
        """Hashes of the ids, and of these with the function's files."""
        del lm
        code = encode_document([self.scorer.name.rpartition(":")[2], sorted(self.scorer.files.values())])
        found = {}
        for task, items in self.tasks.items():
            ids = [encode_document(list(items.of(split))) for split in SPLITS]
            found[task] = TaskFingerprint(requests=hash_texts([code, *ids]), documents=hash_texts(ids))
        return found

    def _choose_sample(self) -> dict[str, list[Any]]:
        """Task -> ids of some search items, spread evenly."""
        sample = {}
        for task in self.tasks:
            every = self._place("search", task, None)
            count = min(SAMPLED_ITEMS, len(every))
            sample[task] = [every[number * len(every) // count] for number in range(count)]
        return sample

    def _place(self, split: Split, task: str, places: ItemPlaces | None) -> list[Any]:
        """Ids of the items at `places` of `split`, as the user gave them."""
        names = self.tasks[task].of(split)
        chosen = names if places is None else [names[place] for place in places[task]]
        return list(chosen) if self.ids is None else [self.ids[task][name] for name in chosen]

    def _score(
        self, lm: ScoredModel, split: Split, asked: Mapping[str, Sequence[Any]] | None
    ) -> dict[str, OwnTaskResult]:
        """Call the function on the ids `asked`, or with None on the whole of `split`, and check what it returns."""
        where = self.scorer.name
        returned = self._call(lm, split if asked is None else {task: list(ids) for task, ids in asked.items()})
        if asked is None:
            results = check_whole_results(returned, list(self.tasks), where=where)
        else:
            results = check_results(returned, asked, where=where)
        for task, result in results.items():
            place = f"{where}: task '{task}'"
            refuse_other_kind(result, self._known.kinds.setdefault(task, describe_kind(result)), where=place)
            if asked is not None and self._known.table is not None:
                self._refuse_other_choices(split, task, result, asked[task], place)
        return results

    def _call(self, lm: ScoredModel, argument: Any) -> Any:
        """Call the function, which must leave the model as it is; global generators are seeded alike."""
        lm.model.eval()
        with own_generators(), torch.no_grad():
            returned = self.scorer.call(self.scorer.score, lm.model, lm.tokenizer, argument)
        for engine in self._engines:
            if engine.lm is lm:
                engine.refuse_replaced(self.scorer.name)
        return returned

    def _refuse_other_choices(
        self, split: Split, task: str, result: OwnTaskResult, ids: Sequence[Any], where: str
    ) -> None:
        assert self._known.table is not None  # noqa: S101 - the caller looked
        requests = self._known.table[task].splits[split]
        numbers = {name: number for number, name in enumerate(self.tasks[task].of(split))}
        places = [numbers[str(each)] for each in ids]
        counts, gold = np.diff(requests.offsets)[places].tolist(), requests.gold[places].tolist()
        refuse_other_choices(result, ids, counts, gold, where=where)

    def _spread_scores(
        self, split: Split, task: str, result: OwnTaskResult, places: ItemPlaces | None
    ) -> list[float | None]:
        if result.is_whole:
            return WholeScore(result.scores[0])
        if places is None:
            return list(result.scores)
        spread: list[float | None] = [None] * len(self.tasks[task].of(split))
        for place, score in zip(places[task], result.scores, strict=True):
            spread[place] = score
        return spread

    def _collect_answers(self, split: Split, results: OwnResults, places: ItemPlaces | None) -> KeptAnswers:
        """Log-likelihoods request by request; NaN for items that were not asked."""
        assert self._known.table is not None  # noqa: S101 - the caller looked
        answers = {}
        for task, result in results.items():
            requests = self._known.table[task].splits[split]
            values = np.full(requests.requests, np.nan, np.float32)
            if result.likelihoods is not None:
                asked = range(len(result.likelihoods)) if places is None else places[task]
                for place, row in zip(asked, result.likelihoods, strict=True):
                    values[requests.offsets[place] : requests.offsets[place + 1]] = row
            answers[task] = TaskAnswers(values, np.zeros(requests.requests, np.uint8))
        return answers

    def _tell_unused(self, lm: ScoredModel) -> None:
        """Say once that the function computed nothing with the model, as one does that repeats kept scores."""
        if lm.counts_positions and not lm.computed_positions and not self._known.is_told:
            self._known.is_told = True
            progress.warn(
                f"{self.scorer.name}: ran no text through the model that it was given: scores that it keeps from an "
                "earlier call are those of another merge"
            )


def _build_requests(metric: str, items: TaskItems, parts: Mapping[Split, OwnTaskResult]) -> TaskRequests:
    """Requests of one task; without results it has none."""
    splits: dict[Split, SplitRequests] = {
        split: _build_split(len(items.of(split)), parts.get(split)) for split in SPLITS
    }
    return TaskRequests(_find_kind(list(splits.values())), metric, None, splits)


def _build_split(items: int, result: OwnTaskResult | None) -> SplitRequests:
    counts = [0] * items if result is None or result.counts is None else list(result.counts)
    gold = [-1] * items if result is None or result.gold is None else list(result.gold)
    lengths = np.zeros(sum(counts), np.int32)  # no metric divides by them
    return SplitRequests(np.array([0, *accumulate(counts)], np.int64), np.array(gold, np.int32), lengths, lengths)


def _find_kind(splits: Sequence[SplitRequests]) -> AnswerKind:
    """`choice` where every item has a right one of several, `reference` where each has one text alone."""
    counts = np.concatenate([np.diff(split.offsets) for split in splits])
    gold = np.concatenate([split.gold for split in splits])
    if (counts >= 2).all() and (gold >= 0).all():
        return "choice"
    return "reference" if (counts == 1).all() else "none"
