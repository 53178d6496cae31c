"""Items of a user's own evaluation: ids by task as `items()` gives them, and their places in the three splits."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aftermix.config import EvaluateConfig, ItemsConfig, Split
from aftermix.errors import EvaluationError
from aftermix.evaluation.items import TaskItems, list_fixed_counts, split_items
from aftermix.evaluation.own.function import ITEMS, OwnFunction

RETURN_IDS = "Return {task: [id, ...]}, each id once, texts or whole numbers."
TaskIds = Mapping[str, Mapping[str, Any]]
"""Task -> id as a text -> id as the user gave it."""


def list_own_items(function: OwnFunction, tasks: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Ids of the items of `tasks`, in this order, or of all tasks that `function` has.

    Raises :class:`EvaluationError` for anything but ids by task, for an id that comes twice, and for an unknown task.
    """
    assert function.list_items is not None  # noqa: S101 - the caller looked
    where = f"{function.name.rpartition(':')[0]}:{ITEMS}"
    returned = function.call(function.list_items)
    if not isinstance(returned, Mapping) or not returned:
        shown = "no task" if isinstance(returned, Mapping) else f"a {type(returned).__name__}"
        raise EvaluationError(where, f"expected ids by task, found {shown}", RETURN_IDS)
    found = {
        _check_task_name(task, where): _check_ids(ids, f"{where}: task '{task}'") for task, ids in returned.items()
    }
    return {task: found[task] for task in choose_tasks(tasks, list(found), where)}


def choose_tasks(asked: Sequence[str], known: Sequence[str], where: str) -> Sequence[str]:
    """The tasks `asked` for, or all. Raises :class:`EvaluationError` for one that `where` does not give."""
    for task in asked:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=3, cutoff=0.5)
            remedy = f"Did you mean {', '.join(close)}?" if close else "Leave `tasks` out to take all."
            found = f"expected tasks that {where} gives ({', '.join(known)}), found '{task}'"
            raise EvaluationError("evaluate.tasks", found, remedy)
    return asked or known


def split_own_items(ids: TaskIds, config: EvaluateConfig) -> dict[str, TaskItems]:
    """The items of every task by purpose, by the rules of :func:`~aftermix.evaluation.items.split_items`.

    An id is an item, whatever it is of; ids are shuffled as documents without a known answer are.
    """
    fixed = list_fixed_counts(config.items)
    return {task: _split_task(task, list(of_task), config.items, fixed) for task, of_task in ids.items()}


def build_whole_items(tasks: Iterable[str]) -> dict[str, TaskItems]:
    """The items of tasks that are scored whole: of each split one, with its name."""
    note = "scored whole, without items"
    return {
        task: TaskItems(task=task, search=("search",), select=("select",), test=("test",), overlap=False, note=note)
        for task in tasks
    }


def _split_task(task: str, ids: Sequence[str], items: ItemsConfig, fixed: frozenset[str]) -> TaskItems:
    # Splits follow from places, as those of lm-eval's documents do.
    golds = {f"{task}/{number}": "" for number in range(len(ids))}
    numbered = split_items(golds, task=task, items=items, fixed=fixed)

    def name(split: Split) -> tuple[str, ...]:
        return tuple(ids[int(item.rpartition("/")[2])] for item in numbered.of(split))

    return replace(numbered, search=name("search"), select=name("select"), test=name("test"))


def _check_task_name(task: Any, where: str) -> str:
    if not isinstance(task, str) or not task.strip():
        raise EvaluationError(where, f"expected names of tasks, found {task!r}", RETURN_IDS)
    return task


def _check_ids(ids: Any, where: str) -> dict[str, Any]:
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise EvaluationError(where, f"expected a list of ids, found a {type(ids).__name__}", RETURN_IDS)
    checked: dict[str, Any] = {}
    for each in ids:
        plain = each.item() if hasattr(each, "item") and getattr(each, "ndim", 1) == 0 else each
        if isinstance(plain, bool) or not isinstance(plain, str | int) or plain == "":
            raise EvaluationError(where, f"expected ids that are texts or whole numbers, found {each!r}", RETURN_IDS)
        if str(plain) in checked:
            raise EvaluationError(where, f"expected each id once, found '{plain}' twice", RETURN_IDS)
        checked[str(plain)] = plain
    return checked
