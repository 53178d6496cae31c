"""Requests of a task whose log-likelihoods are kept, with lengths and right choices as lm-eval's metrics see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from numbers import Integral
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.filters.selection import TakeFirstFilter
from numpy.typing import NDArray

from aftermix.config import Split
from aftermix.evaluation.requests import LeafRequests
from aftermix.evaluation.scoring.metrics import TaskMetric
from aftermix.runs.answers.candidate import TaskAnswers
from aftermix.runs.answers.requests import AnswerKind, LengthUnit, SplitRequests, TaskRequests

CHOSEN_BY: Mapping[str, LengthUnit | None] = {"acc": None, "acc_norm": "characters", "acc_bytes": "bytes"}
"""Metric that says whether the right choice is the likeliest -> the length that it divides log-likelihoods by."""
MUTUAL = "acc_mutual_info"
"""Metric for whose sake the choices are scored without a context, too."""
SCORED = ("loglikelihood", "loglikelihood_rolling")


@dataclass(frozen=True)
class KeptItem:
    """One item: the requests whose answers are kept."""

    item: str
    scored: tuple[Any, ...]
    """Instances with a log-likelihood each."""
    texts: tuple[str, ...]
    """The text of each whose length counts."""
    generated: tuple[Any, ...]
    """Instances whose answer is generated."""
    gold: int
    """Index of the right choice in `scored`; -1 where there is none or more than one."""
    kind: AnswerKind


@dataclass(frozen=True)
class KeptTask:
    """The items of one task in one split, leaf after leaf."""

    items: tuple[KeptItem, ...]
    rows: Mapping[str, bytes] = field(default_factory=dict)
    """Item -> its row, for items whose row another has, too."""

    @property
    def requests(self) -> SplitRequests:
        """Offsets, right choices, lengths and documents."""
        texts = [text for item in self.items for text in item.texts]
        return SplitRequests(
            offsets=np.array([0, *accumulate(len(item.scored) for item in self.items)], np.int64),
            gold=np.array([item.gold for item in self.items], np.int32),
            bytes_R=np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], np.int32),
            characters_R=np.array([len(text) for text in texts], np.int32),
            documents=self._number_documents(),
        )

    def _number_documents(self) -> NDArray[np.int32] | None:
        """(I,) documents numbered in the order of their first items; None where each item is of its own."""
        numbers: dict[str | bytes, int] = {}
        documents = [numbers.setdefault(self.rows.get(item.item, item.item), len(numbers)) for item in self.items]
        return np.array(documents, np.int32) if len(numbers) < len(documents) else None

    def choose_scored(self, requests: Sequence[Any], places: Sequence[int]) -> list[Any]:
        """Those of `requests` that score the items at `places`."""
        wanted = {id(instance) for place in places for instance in self.items[place].scored}
        return [instance for instance in requests if id(instance) in wanted]

    def read_answers(self, places: Sequence[int] | None = None) -> TaskAnswers:
        """The answers that stand in the instances; where a request is repeated, its first log-likelihood.

        With `places` only the items there have been asked: the others have NaN.
        """
        asked = set(range(len(self.items)) if places is None else places)
        answers = [
            _read_likelihood(instance) if place in asked else (float("nan"), False)
            for place, item in enumerate(self.items)
            for instance in item.scored
        ]

        generated = [
            (item.item, str(text))
            for place, item in enumerate(self.items)
            if place in asked
            for instance in item.generated
            for text in instance.resps
        ]
        return TaskAnswers(
            loglikelihood=np.array([value for value, _ in answers], np.float32),
            greedy=np.array([is_greedy for _, is_greedy in answers], np.uint8),
            generated=tuple(generated),
        )


def keep_task(
    parts: Sequence[LeafRequests],
    metric: TaskMetric,
    references: Mapping[int, tuple[Any, str]] | None = None,
    *,
    rows: Mapping[str, bytes] | None = None,
) -> KeptTask:
    """The requests of `parts` that are kept.

    `references` has, by the id of an instance whose answer is generated, the request that scores its right answer, and
    the text of this. `rows` has the row of every item whose row another has, too.
    """
    return KeptTask(
        tuple(
            _keep_item(part.leaf, item, group, metric, references or {})
            for part in parts
            for item, group in zip(part.items, part.instances, strict=True)
        ),
        rows or {},
    )


def build_task_requests(metric: TaskMetric, splits: Mapping[Split, KeptTask]) -> TaskRequests:
    """The requests of one task in all splits; it is of a kind where all of its items are."""
    kinds = {item.kind for task in splits.values() for item in task.items}
    kind: AnswerKind = kinds.pop() if len(kinds) == 1 else "none"
    length: LengthUnit | None = CHOSEN_BY.get(metric.name) if kind == "choice" else None
    if kind == "reference" and metric.weighting == "bytes":
        length = "bytes"
    return TaskRequests(kind, str(metric), length, {split: task.requests for split, task in splits.items()})


def _keep_item(
    leaf: Any, item: str, group: Sequence[Any], metric: TaskMetric, references: Mapping[int, tuple[Any, str]]
) -> KeptItem:
    if leaf.OUTPUT_TYPE == "multiple_choice" and _is_built_by_lm_eval(leaf):
        return _keep_choices(leaf, item, group, metric)

    scored = [(instance, str(instance.args[-1])) for instance in group if instance.request_type in SCORED]
    generated = tuple(instance for instance in group if instance.request_type not in SCORED)
    scored += [references[id(instance)] for instance in generated if id(instance) in references]
    kind: AnswerKind = "reference" if len(scored) == 1 else "none"
    return KeptItem(item, tuple(each for each, _ in scored), tuple(text for _, text in scored), generated, -1, kind)


def _keep_choices(leaf: Any, item: str, group: Sequence[Any], metric: TaskMetric) -> KeptItem:
    """The choices given the prompt; without a context only where the metric that counts needs them."""
    document = group[0].doc
    choices = [str(choice) for choice in leaf.doc_to_choice(document)]
    if MUTUAL in leaf._metric_fn_list and metric.name != MUTUAL:
        group = group[: len(group) - len(choices)]
    if len(choices) < len(group):
        choices = choices * 2  # each without a context, too

    by_itself = callable(leaf.config.process_results) or not _is_scored_by_lm_eval(leaf)
    gold = -1 if by_itself else _find_gold(leaf, document, choices[: len(group)])
    is_choice = metric.name in CHOSEN_BY and gold >= 0 and _takes_first(leaf, metric.filter)
    kind: AnswerKind = "choice" if is_choice else "none"
    return KeptItem(item, tuple(group), tuple(choices[: len(group)]), (), gold, kind)


def _find_gold(leaf: Any, document: Any, choices: Sequence[str]) -> int:
    """The index of the right choice, as lm-eval reads it: an index, the text of a choice, or a list of one index."""
    gold = leaf.doc_to_text(document) if leaf.multiple_input else leaf.doc_to_target(document)
    if isinstance(gold, list):
        gold = gold[0] if len(set(gold)) == 1 else -1
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else -1
    return int(gold) if isinstance(gold, Integral) and 0 <= int(gold) < len(choices) else -1


def _is_built_by_lm_eval(leaf: Any) -> bool:
    return type(leaf).construct_requests is ConfigurableTask.construct_requests


def _is_scored_by_lm_eval(leaf: Any) -> bool:
    return type(leaf).process_results is ConfigurableTask.process_results


def _takes_first(leaf: Any, name: str) -> bool:
    """True where the filter leaves answers as they are."""
    steps = [step for ensemble in leaf._filters if ensemble.name == name for step in ensemble.filters]
    return all(getattr(step, "func", step) is TakeFirstFilter for step in steps)


def _read_likelihood(instance: Any) -> tuple[float, bool]:
    """(log-likelihood, greedy); of a text that is scored as a whole the second is unknown, and False."""
    answer = instance.resps[0]
    return (float(answer[0]), bool(answer[1])) if isinstance(answer, tuple | list) else (float(answer), False)
