"""lm-eval tasks in one living process: built once, scored item by item for one candidate after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from lm_eval.api.model import CachingLM
from lm_eval.api.samplers import FirstNSampler

from aftermix.config import EvaluateConfig, ItemsConfig, Split
from aftermix.errors import EvaluationError, Problem, refuse_if_any
from aftermix.evaluation.documents.generators import own_generators
from aftermix.evaluation.documents.rows import find_equal_items
from aftermix.evaluation.documents.text_task import TextsByTask
from aftermix.evaluation.equal_items import EqualItems
from aftermix.evaluation.fewshot import choose_examples
from aftermix.evaluation.fingerprints import TaskFingerprint, fingerprint_task
from aftermix.evaluation.items import SPLITS, TaskItems, join_notes, list_fixed_counts, split_items
from aftermix.evaluation.kept.references import build_references, list_reference_requests
from aftermix.evaluation.kept.tasks import KeptTask, build_task_requests, keep_task
from aftermix.evaluation.loading import Leaves, load_tasks
from aftermix.evaluation.places import ItemPlaces, spread_scores, take_places
from aftermix.evaluation.quiet import HeardWarnings, quiet
from aftermix.evaluation.remarks import list_task_remarks
from aftermix.evaluation.requests import (
    ChatTemplate,
    LeafRequests,
    build_requests,
    collect_answers,
    compile_templates_once,
    forget_answers,
)
from aftermix.evaluation.scoring.answers import read_answers
from aftermix.evaluation.scoring.choice import choose_metric, has_metric, refuse_no_values
from aftermix.evaluation.scoring.metrics import TaskMetric
from aftermix.evaluation.scoring.tasks import score_task
from aftermix.runs.answers.candidate import KeptAnswers
from aftermix.runs.answers.requests import TaskRequests
from aftermix.runs.trials import average_scores


@dataclass(frozen=True)
class SuiteScores:
    """Scores of one candidate on one split."""

    items: dict[str, list[float | None]]
    """Task -> the primary metric of each item, in the order of the split's items; None for an item without it."""
    metrics: dict[str, dict[str, list[float]]]
    """Task -> every per-item metric, named `metric,filter`."""
    tokens: int
    """Tokens that went through the model, generated ones included; 0 from an engine that does not count."""
    truncated: int = 0
    """Requests whose prompt was cut on the left because it exceeds the model's length."""
    answers: KeptAnswers | None = None
    """Task -> log-likelihoods and generated texts, where they were asked for."""

    @property
    def scores(self) -> dict[str, float]:
        """Task -> mean of its items that have a value; of a group, as it weighs its leaves."""
        return average_scores(self.items)


@dataclass(frozen=True)
class KeptSplit:
    """Requests of one split whose answers are kept."""

    tasks: dict[str, KeptTask]
    references: dict[str, list[Any]]
    """Task -> requests that score the right answers of generated ones."""


@dataclass(frozen=True)
class TaskSuite:
    """The tasks of a configuration with their splits and, once asked for, their requests."""

    tasks: dict[str, TaskItems]
    primary: dict[str, TaskMetric]
    """Task -> the metric that counts."""
    chat: bool
    heard: HeardWarnings = field(repr=False)
    """Warnings of lm-eval while tasks are built and answers scored."""
    remarks: tuple[Problem, ...] = field(repr=False)
    """Remarks on what makes scores mislead, which stops nothing."""
    with_references: bool
    """True if the right answers of generated tasks are scored, too, wherever answers are kept."""
    rows: Mapping[str, bytes] = field(repr=False)
    """Item -> its row, for items whose row another has, too; empty in runs that know of none."""
    _leaves: dict[str, Leaves] = field(repr=False)
    _requests: dict[Split, dict[str, list[LeafRequests]]] = field(default_factory=dict, repr=False)
    _kept: dict[Split, KeptSplit] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls, config: EvaluateConfig, *, equal_rows_together: bool = True, texts: TextsByTask | None = None
    ) -> Self:
        """Load the tasks, choose metrics and items, and build the search prompts, before any model is loaded.

        `texts` are the documents of the tasks that are texts, which no other is asked for.
        Runs of earlier versions were split without `equal_rows_together`, and go on with their own items.
        Raises :class:`EvaluationError` for everything that is wrong with a task, its metric or its number of items.
        """
        heard = HeardWarnings()
        loaded = load_tasks(config, heard, texts=texts)
        primary = {
            task.task: choose_metric(task, loaded[task.task], aggregates=loaded[task.task].aggregates)
            for task in config.tasks
        }
        without = {name: _drop_leaves_without(leaves, primary[name]) for name, leaves in loaded.items()}

        with quiet(heard):
            answers = _read_all_answers(loaded)
            leaves = {name: leaf for own in loaded.values() for name, leaf in own.items()}
            equal = EqualItems(find_equal_items(leaves) if equal_rows_together else {})
            tasks = _split_tasks(loaded, answers, config.items, equal)
        notes = {name: join_notes(tasks[name].note, without[name], loaded[name].note) for name in tasks}
        tasks = {name: replace(items, note=notes[name]) for name, items in tasks.items()}
        for name, own in loaded.items():
            refuse_no_values(name, primary[name], own, {split: tasks[name].of(split) for split in SPLITS})

        remarks = tuple(list_task_remarks(loaded, primary, tasks, shots=config.num_fewshot or 0))
        suite = cls(
            tasks=tasks,
            primary=primary,
            chat=config.applies_chat_template,
            heard=heard,
            remarks=remarks,
            with_references=config.reference_loglikelihood == "auto",
            rows=equal.groups,
            _leaves=loaded,
        )
        if not suite.chat:  # a chat template comes with the engine's tokenizer
            suite.build_split("search", None)
        return suite

    def count_items(self) -> dict[str, dict[str, int]]:
        """Task -> split -> number of items."""
        return {name: {split: len(items.of(split)) for split in SPLITS} for name, items in self.tasks.items()}

    def list_requests(self, split: Split, lm: Any, places: ItemPlaces | None = None) -> dict[str, list[Any]]:
        """Task -> all requests of `split`, or of its items at `places`; `lm` may be asked for its chat template."""
        by_task = self._ask(split, lm, places)
        return {
            task: [instance for part in parts for instance in part.list_instances()] for task, parts in by_task.items()
        }

    def fingerprint_tasks(self, lm: Any) -> dict[str, TaskFingerprint]:
        """Task -> hashes of what decides its scores besides the model, over the items of all splits.

        `lm` is asked for its chat template where one applies. Raises :class:`EvaluationError` as requests are built.
        """
        parts = [self.build_split(split, lm) for split in SPLITS]
        return {
            task: fingerprint_task([part for by_task in parts for part in by_task[task]], metric)
            for task, metric in self.primary.items()
        }

    def count_tokens(self, split: Split, lm: Any) -> dict[str, int]:
        """Task -> tokens that the model must be run on for `split`, each task alone; generated text at its limit.

        `lm` needs `count_request_tokens`, as the live model and that of :func:`~.engines.hf.open_planning_model` have.
        """
        references = self.keep_split(split, lm).references
        return {
            task: sum(lm.count_request_tokens(asked) for asked in (instances, references[task]))
            for task, instances in self.list_requests(split, lm).items()
        }

    def tabulate_requests(self, lm: Any) -> dict[str, TaskRequests]:
        """Task -> what its kept log-likelihoods are of, in all splits; `lm` as in :meth:`evaluate`."""
        kept = {split: self.keep_split(split, lm).tasks for split in SPLITS}
        return {
            task: build_task_requests(metric, {split: tasks[task] for split, tasks in kept.items()})
            for task, metric in self.primary.items()
        }

    def evaluate(self, lm: Any, split: Split, *, keep: bool = False, places: ItemPlaces | None = None) -> SuiteScores:
        """Scores of the model that `lm` holds now on the items of `split`, and on no others.

        `lm` is any lm-eval `LM`; no answer of an earlier candidate is seen. With `keep` come its answers, and those to
        the references of generated tasks, which decide no score. With `places` only the items there are asked: the
        others have no score, and NaN for a log-likelihood. Raises :class:`EvaluationError` for a model behind
        lm-eval's answer cache, whose keys know the prompt but not the weights, and for scores that are no numbers.
        """
        if isinstance(lm, CachingLM):
            raise EvaluationError(
                "lm",
                "is wrapped in lm-eval's answer cache, which would repeat another candidate's answers",
                "Unwrap it.",
            )

        by_task = self._ask(split, lm, places)
        flat = [instance for parts in by_task.values() for part in parts for instance in part.list_instances()]
        forwarded, truncated = getattr(lm, "forwarded_tokens", 0), getattr(lm, "truncated_requests", 0)
        try:
            with quiet(self.heard):
                collect_answers(lm, flat)
                scored = {
                    task: score_task(task, parts, self.primary[task], in_part=not self._is_whole(task, split, places))
                    for task, parts in by_task.items()
                }
                truncated = getattr(lm, "truncated_requests", 0) - truncated
                answers = self._collect_kept(lm, split, places) if keep else None
        finally:
            forget_answers(flat)

        return SuiteScores(
            items={task: self._spread(task, primary, split, places) for task, (primary, _) in scored.items()},
            metrics={task: metrics for task, (_, metrics) in scored.items()},
            tokens=getattr(lm, "forwarded_tokens", 0) - forwarded,
            truncated=truncated,
            answers=answers,
        )

    def list_references(self, split: Split, lm: Any, places: ItemPlaces | None = None) -> list[Any]:
        """Requests that score the right answers of generated tasks, of the items at `places` or of all."""
        kept = self.keep_split(split, lm)
        return [
            instance
            for task, asked in kept.references.items()
            for instance in (asked if places is None else kept.tasks[task].choose_scored(asked, places[task]))
        ]

    def _ask(self, split: Split, lm: Any, places: ItemPlaces | None) -> dict[str, list[LeafRequests]]:
        """Task -> requests of the items that are asked."""
        by_task = self.build_split(split, lm)
        if places is None:
            return by_task
        return {task: take_places(parts, places[task]) for task, parts in by_task.items()}

    def _spread(
        self, task: str, scores: list[float | None], split: Split, places: ItemPlaces | None
    ) -> list[float | None]:
        if places is None or self._is_whole(task, split, places):
            return scores
        return spread_scores(scores, self._requests[split][task], places[task], self.primary[task])

    def _is_whole(self, task: str, split: Split, places: ItemPlaces | None) -> bool:
        """True if all items of the task are asked, whose scores are then as without places."""
        return places is None or len(places[task]) == len(self.tasks[task].of(split))

    def _collect_kept(self, lm: Any, split: Split, places: ItemPlaces | None) -> KeptAnswers:
        """The answers that stand in the requests now, and those to references, which are asked for here."""
        kept, references = self.keep_split(split, lm), self.list_references(split, lm, places)
        try:
            collect_answers(lm, references)
            return {
                name: task.read_answers(None if places is None else places[name]) for name, task in kept.tasks.items()
            }
        finally:
            forget_answers(references)

    def keep_split(self, split: Split, lm: Any) -> KeptSplit:
        """The requests of `split` whose answers are kept."""
        if split not in self._kept:
            kept, asked = {}, {}
            with quiet(self.heard), compile_templates_once(), own_generators():
                for task, parts in self.build_split(split, lm).items():
                    chat = bool(self._leaves[task].prompt.apply_chat_template)
                    references = build_references(parts, lm, chat=chat) if self.with_references else {}
                    kept[task] = keep_task(parts, self.primary[task], references, rows=self.rows)
                    asked[task] = list_reference_requests(references)
            self._kept[split] = KeptSplit(kept, asked)
        return self._kept[split]

    def build_split(self, split: Split, lm: Any) -> dict[str, list[LeafRequests]]:
        """Task -> requests of its leaves for the items of `split`, `lm` being asked for its chat template."""
        if split not in self._requests:
            with quiet(self.heard):
                self._requests[split] = {
                    name: _build_task_requests(items.of(split), self._leaves[name], lm)
                    for name, items in self.tasks.items()
                }
        return self._requests[split]


def _drop_leaves_without(leaves: Leaves, metric: TaskMetric) -> str | None:
    """Take the members without the metric out of a group that counts by its own list; what was done, in words."""
    absent = [
        name for name, leaf in leaves.items() if metric.weighting != "items" and not has_metric(leaf, metric.name)
    ]
    for name in absent:
        del leaves[name]
    names = ", ".join(f"'{name}'" for name in absent)
    return f"{names} without metric '{metric.name}': not counted, as in lm-eval's own group" if absent else None


def _read_all_answers(loaded: Mapping[str, Leaves]) -> dict[str, list[str]]:
    """Leaf -> gold answer of each document; the tasks with answers that cannot be right are refused together."""
    problems: list[Problem] = []
    answers: dict[str, list[str]] = {}
    for leaves in loaded.values():
        with own_generators():
            answers |= {name: read_answers(name, leaf, problems) for name, leaf in leaves.items()}
    refuse_if_any(problems)
    return answers


def _split_tasks(
    loaded: Mapping[str, Leaves], answers: Mapping[str, Sequence[str]], items: ItemsConfig, equal: EqualItems
) -> dict[str, TaskItems]:
    """The items of every task by purpose: of equal rows all in one part, whichever task has them.

    The smallest task comes first, since a larger one has room for its rows in the same parts; of one size, the first by
    name, so that the order of the file decides nothing.
    """
    split = partial(split_items, items=items, fixed=list_fixed_counts(items))
    usable = {name: _list_usable_items(leaves, answers, items, equal) for name, leaves in loaded.items()}
    if items.scheme == "first":
        for name, (golds, _) in usable.items():
            early = split(golds, task=name)
            equal.mark_early((*early.search, *early.select))

    done = {
        name: split(usable[name][0], task=name, equal=equal)
        for name in sorted(usable, key=lambda name: (len(usable[name][0]), name))
    }
    return {name: replace(done[name], note=join_notes(done[name].note, usable[name][1])) for name in loaded}


def _list_usable_items(
    leaves: Leaves, answers: Mapping[str, Sequence[str]], items: ItemsConfig, equal: EqualItems
) -> tuple[dict[str, str], str | None]:
    """Item -> gold answer for every item that may be scored, and a note on those that are few-shot examples."""
    golds: dict[str, str] = {}
    examples: set[str] = set()
    with compile_templates_once(), own_generators():
        for leaf_name, leaf in leaves.items():
            golds |= {f"{leaf_name}/{number}": gold for number, gold in enumerate(answers[leaf_name])}
            examples |= {f"{leaf_name}/{number}" for number in _reserve_examples(leaf_name, leaf, seed=items.seed)}

    # An item of the same row as an example is one, too, even where its options stand in another order.
    shown = {equal.groups[item] for item in examples if item in equal.groups}
    examples |= {item for item in golds if equal.groups.get(item) in shown}
    note = f"{len(examples)} items are few-shot examples and not scored" if examples else None
    return {item: gold for item, gold in golds.items() if item not in examples}, note


def _reserve_examples(name: str, leaf: Any, *, seed: int) -> frozenset[int]:
    """Give the leaf's sampler a pool apart from what is scored; the numbers of the documents that it then keeps."""
    shots = leaf.get_config("num_fewshot") or 0
    if shots == 0:
        return frozenset()

    pool = choose_examples(
        leaf.sampler.df,
        list(leaf.task_docs),
        shots=shots,
        task=name,
        seed=seed,
        in_order=isinstance(leaf.sampler, FirstNSampler),
    )
    leaf.sampler.replace_df(pool.examples)
    return pool.reserved


def _build_task_requests(items: Sequence[str], leaves: Leaves, lm: Any) -> list[LeafRequests]:
    template: ChatTemplate | None = None
    if leaves.prompt.apply_chat_template:
        arguments = leaves.prompt.chat_template_args
        template = partial(lm.apply_chat_template, template_args=arguments) if arguments else lm.apply_chat_template

    numbers: dict[str, list[int]] = defaultdict(list)
    for item in items:
        leaf_name, _, number = item.rpartition("/")
        numbers[leaf_name].append(int(number))

    parts = []
    with own_generators(leaves.states):
        for leaf_name, leaf in leaves.items():
            documents = leaf.task_docs
            chosen = [(f"{leaf_name}/{number}", number, documents[number]) for number in sorted(numbers[leaf_name])]
            if chosen:
                parts.append(build_requests(leaf, chosen, chat_template=template, prompt=leaves.prompt))
    return parts
