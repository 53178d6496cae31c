"""Results of a scorer, checked against what it was asked: scores, log-likelihoods and right choices by task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from aftermix.errors import EvaluationError

KEYS = ("scores", "loglikelihoods", "gold", "items")
SHAPE = '{"scores": [...], "loglikelihoods": [[...], ...], "gold": [...]} (the last two optional), or one number'
SAME_WAY = "Score every model in the same way: only the model may differ from call to call."
ORDER = "Return one for each id of `items`, in the order asked."


@dataclass(frozen=True)
class OwnTaskResult:
    """Result of one task: of each item asked, or of the whole task."""

    scores: tuple[float, ...]
    """One for each item, in the order asked; of a whole task one alone."""
    is_whole: bool = False
    likelihoods: tuple[tuple[float, ...], ...] | None = None
    """For each item one of every choice; None where the scorer gives none."""
    gold: tuple[int, ...] | None = None
    """Index of the right choice of each item."""

    @property
    def counts(self) -> tuple[int, ...] | None:
        """Number of choices of each item."""
        return None if self.likelihoods is None else tuple(map(len, self.likelihoods))


OwnResults = Mapping[str, OwnTaskResult]
"""Task -> its result."""


def check_results(returned: Any, asked: Mapping[str, Sequence[Any]], *, where: str) -> dict[str, OwnTaskResult]:
    """Results that the scorer called `where` `returned` for `asked`, task -> ids.

    Numbers may be Python's, NumPy's or torch's, lists any sequences or arrays of one dimension; `scores` may also map
    each id to its score. Raises :class:`EvaluationError` for anything but finite numbers of exactly these tasks and
    items.
    """
    if not isinstance(returned, Mapping):
        found = f"expected {{task: {SHAPE}}}, found {_name_type(returned)}"
        raise EvaluationError(where, found, "Return a dict with an entry for each task of `items`.")
    _refuse_other_names(where, "tasks", list(asked), list(returned))
    return {task: _check_task(returned[task], ids, where=f"{where}: task '{task}'") for task, ids in asked.items()}


def check_whole_results(returned: Any, tasks: Sequence[str] = (), *, where: str) -> dict[str, OwnTaskResult]:
    """Results of a scorer without items: a number for each of `tasks`, or for whatever tasks there are.

    Raises :class:`EvaluationError` for anything else.
    """
    if not isinstance(returned, Mapping) or not returned:
        shown = "no task" if isinstance(returned, Mapping) else _name_type(returned)
        found = f"expected {{task: number}}, since there is no `items()`, found {shown}"
        raise EvaluationError(where, found, "Return a dict with a number for each task, or define `items()`.")
    for task in [*tasks, *returned]:
        if not isinstance(task, str) or task not in returned:
            found = f"expected a number for each task ({', '.join(tasks) or 'named by a text'}), found {list(returned)}"
            raise EvaluationError(where, found, "Return a number for each task.")

    results = {}
    for task in tasks or returned:
        place = f"{where}: task '{task}'"
        if isinstance(returned[task], Mapping):
            found = "expected one number, since there is no `items()`, found scores of items"
            raise EvaluationError(place, found, "Define `items()`, which says what items there are.")
        results[task] = OwnTaskResult((_read_number(returned[task], place),), is_whole=True)
    return results


def describe_kind(result: OwnTaskResult) -> str:
    """The kind of a result in words, which is one at every call."""
    if result.is_whole:
        return "one number"
    return "scores of items" if result.likelihoods is None else "scores of items with log-likelihoods"


def refuse_other_kind(result: OwnTaskResult, expected: str, *, where: str) -> None:
    """Refuse a result of another kind than at an earlier call: merges would be compared by unlike measures."""
    if describe_kind(result) != expected:
        raise EvaluationError(where, f"expected {expected}, as before, found {describe_kind(result)}", SAME_WAY)


def refuse_other_choices(
    result: OwnTaskResult, ids: Sequence[Any], counts: Sequence[int], gold: Sequence[int], *, where: str
) -> None:
    """Refuse another number of choices, or another right one, than the items `ids` had at an earlier call."""
    if result.counts is None or result.gold is None:
        return
    for each, had, has, right, now in zip(ids, counts, result.counts, gold, result.gold, strict=True):
        if had != has:
            found = f"expected {had} log-likelihoods, as before, found {has}"
            raise EvaluationError(f"{where}: item '{each}'", found, SAME_WAY)
        if right != now:
            found = f"expected the right choice {right}, as before, found {now}"
            raise EvaluationError(f"{where}: item '{each}'", found, SAME_WAY)


def _check_task(value: Any, ids: Sequence[Any], *, where: str) -> OwnTaskResult:
    if not isinstance(value, Mapping):
        if _is_number(value):
            return OwnTaskResult((_read_number(value, where),), is_whole=True)
        raise EvaluationError(where, f"expected {SHAPE}, found {_name_type(value)}", "Return one of the two.")

    unknown = [key for key in value if key not in KEYS]
    if unknown or "scores" not in value:
        found = f"found the key {unknown[0]!r}" if unknown else "found no `scores`"
        raise EvaluationError(where, f"expected {SHAPE}, {found}", f"The keys are {', '.join(KEYS)}.")
    if "items" in value:
        _refuse_other_items(where, ids, _list(value["items"], f"{where}: items"))

    scores = _read_scores(value["scores"], ids, where=where)
    if value.get("loglikelihoods") is None:
        if value.get("gold") is not None:
            found = "expected `loglikelihoods` beside `gold`, found none"
            raise EvaluationError(where, found, "Give both, or neither.")
        return OwnTaskResult(scores)
    likelihoods = _read_likelihoods(value["loglikelihoods"], ids, where=f"{where}: loglikelihoods")
    gold = _read_gold(value.get("gold"), likelihoods, where=f"{where}: gold")
    return OwnTaskResult(scores, likelihoods=likelihoods, gold=gold)


def _read_scores(value: Any, ids: Sequence[Any], *, where: str) -> tuple[float, ...]:
    place = f"{where}: scores"
    if isinstance(value, Mapping):
        by_name = {str(name): score for name, score in value.items()}
        _refuse_other_names(place, "ids", [str(each) for each in ids], list(by_name))
        value = [by_name[str(each)] for each in ids]
    scores = _list(value, place)
    _refuse_other_count(place, ids, scores)
    return tuple(_read_number(score, f"{place}: item '{each}'") for each, score in zip(ids, scores, strict=True))


def _read_likelihoods(value: Any, ids: Sequence[Any], *, where: str) -> tuple[tuple[float, ...], ...]:
    rows = _list(value, where)
    _refuse_other_count(where, ids, rows)
    read = []
    for each, row in zip(ids, rows, strict=True):
        place = f"{where}: item '{each}'"
        numbers = [_read_number(number, place) for number in _list(row, place)]
        if not numbers:
            raise EvaluationError(place, "expected a number for each choice, found none", "Give one for every choice.")
        read.append(tuple(numbers))
    return tuple(read)


def _read_gold(value: Any, likelihoods: Sequence[Sequence[float]], *, where: str) -> tuple[int, ...]:
    if value is None:
        found = "expected the index of each item's right choice beside `loglikelihoods`, found none"
        raise EvaluationError(where, found, "Give both, or neither.")
    gold = _list(value, where)
    _refuse_other_count(where, likelihoods, gold)
    for number, (index, row) in enumerate(zip(gold, likelihoods, strict=True)):
        plain = _take_item(index)
        if isinstance(plain, bool) or not isinstance(plain, Integral) or not 0 <= int(plain) < len(row):
            found = f"expected an index from 0 to {len(row) - 1} of item {number} of those asked, found {plain!r}"
            raise EvaluationError(where, found, "Give the place of the right choice among its log-likelihoods.")
    return tuple(int(_take_item(index)) for index in gold)


def _refuse_other_names(where: str, noun: str, expected: Sequence[Any], found: Sequence[Any]) -> None:
    """Refuse names that are missing or too many, with the first of each."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        parts = ([f"no '{missing[0]}'"] if missing else []) + ([f"'{unknown[0]}'"] if unknown else [])
        shown = ", ".join(map(str, expected[:6])) + (", ..." if len(expected) > 6 else "")
        text = f"expected the {len(expected)} {noun} asked ({shown}), found {' and '.join(parts)}"
        raise EvaluationError(where, text, f"Return exactly the {noun} of `items`.")


def _refuse_other_items(where: str, ids: Sequence[Any], named: Sequence[Any]) -> None:
    _refuse_other_count(f"{where}: items", ids, named)
    for number, (asked, answered) in enumerate(zip(ids, named, strict=True)):
        if str(asked) != str(answered):
            found = f"expected '{asked}' at place {number}, found '{answered}'"
            raise EvaluationError(f"{where}: items", found, "Answer the items in the order asked.")


def _refuse_other_count(where: str, expected: Sequence[Any], found: Sequence[Any]) -> None:
    if len(found) != len(expected):
        raise EvaluationError(where, f"expected {len(expected)}, found {len(found)}", ORDER)


def _list(value: Any, where: str) -> list[Any]:
    """A sequence or array of one dimension as a list."""
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise EvaluationError(where, f"expected a list, found {_name_type(value)}", ORDER)
    return list(value)


def _take_item(value: Any) -> Any:
    """The number in an array of none or one."""
    if hasattr(value, "item") and getattr(value, "size", None) is not None and not isinstance(value, Real):
        try:
            return value.item()
        except (ValueError, RuntimeError):
            return value
    return value


def _is_number(value: Any) -> bool:
    return isinstance(_take_item(value), Real)


def _read_number(value: Any, where: str) -> float:
    plain = _take_item(value)
    if not isinstance(plain, Real) or not math.isfinite(plain):
        shown = repr(plain) if isinstance(plain, Real | str) or plain is None else _name_type(plain)
        remedy = "Return a score for every item, 0 for one that cannot be scored."
        raise EvaluationError(where, f"expected a finite number, found {shown}", remedy)
    return float(plain)


def _name_type(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
