"""Remarks on tasks whose scores may mislead, before these are believed; they stop nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aftermix.errors import Problem
from aftermix.evaluation.documents.generators import own_generators
from aftermix.evaluation.items import SPLITS, TaskItems
from aftermix.evaluation.loading import Leaves
from aftermix.evaluation.requests import compile_templates_once
from aftermix.evaluation.scoring.metrics import TaskMetric
from aftermix.evaluation.scoring.probe import drops_answers

PROBED_ITEMS = 20
"""Items of a leaf whose scoring is tried with several made-up answers."""


def list_task_remarks(
    loaded: Mapping[str, Leaves], primary: Mapping[str, TaskMetric], tasks: Mapping[str, TaskItems], *, shots: int
) -> list[Problem]:
    """Remarks on the tasks `loaded` (task -> leaves by name) and the items that `tasks` scores.

    They are on few-shot examples (`shots`, as the file asks of all tasks) that a task does without, on items that
    cannot be right, on examples that ask what a scored item asks, and on scoring that leaves answers out.
    """
    remarks: list[Problem] = []
    for task, leaves in loaded.items():
        remarks += _remark_on_shots(task, leaves, shots)
        numbers = _list_numbers(tasks[task])
        with compile_templates_once(), own_generators():  # a template of the task's own may draw at random
            for name, leaf in leaves.items():
                remarks += _remark_on_twins(name, leaf, numbers[name])
                remarks += _remark_on_examples(name, leaf, numbers[name])
                remarks += _remark_on_drops(name, leaf, numbers[name], primary[task])
    return remarks


def remark_on_warnings(lines: Iterable[str]) -> list[Problem]:
    """Remarks on `lines`, what lm-eval warned of and was not told before."""
    return [Problem("evaluate.tasks", line, "Look whether the task's YAML means this.") for line in lines]


def _list_numbers(items: TaskItems) -> Mapping[str, list[int]]:
    """Leaf -> numbers of the documents that some split has, ascending."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for item in (item for split in SPLITS for item in items.of(split)):
        leaf, _, number = item.rpartition("/")
        numbers[leaf].add(int(number))
    return defaultdict(list, {leaf: sorted(found) for leaf, found in numbers.items()})


def _remark_on_shots(task: str, leaves: Leaves, shots: int) -> Iterator[Problem]:
    if not leaves.without_shots:
        return
    which = "" if len(leaves.without_shots) == len(leaves) else f" of {len(leaves.without_shots)} of its tasks"
    yield Problem(
        f"task '{task}'",
        f"is asked without few-shot examples, since the YAML{which} says `num_fewshot: 0`, and not with "
        f"`evaluate.num_fewshot: {shots}`",
        f"Say `{{task: {task}, num_fewshot: {shots}}}` in `evaluate.tasks` to have them all the same.",
    )


def _remark_on_twins(name: str, leaf: Any, numbers: Sequence[int]) -> Iterator[Problem]:
    """Items whose right choice has the text of an earlier one: it ties with that, and of equals the first is taken."""
    by_itself = callable(leaf.config.process_results) or leaf.multiple_input or leaf.multiple_target
    if leaf.OUTPUT_TYPE != "multiple_choice" or by_itself:
        return

    twins = []
    for number in numbers:
        document = leaf.task_docs[number]
        gold, choices = leaf.doc_to_target(document), leaf.doc_to_choice(document)
        if isinstance(gold, int) and choices[gold] in choices[:gold]:
            twins.append(number)
    if twins:
        found = f"the text of the right choice is an earlier choice, too, and that one is taken: {len(twins)} of "
        found += f"{len(numbers)} items can never be right (item '{name}/{twins[0]}')"
        yield Problem(
            f"task '{name}'", found, "Give the index of the first, or drop these documents in `process_docs`."
        )


def _remark_on_examples(name: str, leaf: Any, numbers: Sequence[int]) -> Iterator[Problem]:
    """Few-shot examples with the words of a scored item, as where options stand in another order."""
    if not leaf.get_config("num_fewshot"):
        return

    examples = {_read_words(leaf, example) for example in leaf.sampler.df}
    asked = [_read_words(leaf, leaf.task_docs[number]) for number in numbers]
    if len(set(asked)) < len(asked) // 2:  # prompts that say the same for most items ask nothing of their own
        return
    shown = [number for number, words in zip(numbers, asked, strict=True) if words and words in examples]
    if shown:
        found = f"{len(shown)} of {len(numbers)} scored items have the words of a few-shot example, whose answer may "
        found += f"stand in a prompt (item '{name}/{shown[0]}')"
        yield Problem(f"task '{name}'", found, "Take these rows out of the split of the examples (`fewshot_split`).")


def _read_words(leaf: Any, document: Any) -> tuple[str, ...]:
    """The words of a document's prompt in order of the alphabet; none where it has no text."""
    try:
        text = leaf.doc_to_text(document)
    except Exception:  # an example may lack what the templates of documents read
        return ()
    return tuple(sorted(text.split())) if isinstance(text, str) else ()


def _remark_on_drops(name: str, leaf: Any, numbers: Iterable[int], metric: TaskMetric) -> Iterator[Problem]:
    documents = [leaf.task_docs[number] for number in list(numbers)[:PROBED_ITEMS]]
    if drops_answers(leaf, documents, metric):
        yield Problem(
            f"task '{name}'",
            f"its scoring gives some answers to an item no value of '{metric.name}', and these are in no mean: a model "
            "that gives few answers may win",
            "Return a value for every answer in `process_results`, 0 for one that cannot be read.",
        )
