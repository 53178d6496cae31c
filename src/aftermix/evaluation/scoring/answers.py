"""Answers of a task's documents, read before any model is loaded; those that no model can hit are refused."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from aftermix.errors import EvaluationError, Problem, describe_cause
from aftermix.evaluation.requests import compile_templates_once

MAX_GOLD_ANSWERS = 32
"""A task with more distinct answers than this is not stratified by them: they are texts, not classes."""
SHOWN_CHARACTERS = 40
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class AnswerFault:
    """A fault of one document: a key of :data:`KINDS`, and the value that shows it."""

    kind: str
    shown: str


KINDS = {
    "choices": ("no list of choices", "Give each document a list of texts in `doc_to_choice`."),
    "empty": ("an empty choice", "Correct these documents, or drop them in `process_docs`."),
    "untext": ("a choice that is no text", "Write the choices as texts in `doc_to_choice`."),
    "missing": ("no answer", "Complete these rows, or drop them in `process_docs`."),
    "hidden": ("a hidden answer", "Take a split with public answers (`test_split`), or drop these documents."),
    "float": ("a float as answer", 'Write the answer as an integer: `doc_to_target: "{{{{ {field} | int }}}}"`.'),
    "letter": (
        "a letter that is none of the choices",
        "Give the index of the choice: `doc_to_target: \"{{{{ '{letters}'.index({field}) }}}}\"`.",
    ),
    "digits": (
        "a number as text that is none of the choices",
        'Give the index as a number: `doc_to_target: "{{{{ {field} }}}}"`.',
    ),
    "text": ("a text that is none of the choices", "Give the index of the right choice (from 0), or its exact text."),
    "beyond": ("an index beyond the choices", "Correct the data; the first choice has the index 0."),
    "list": ("lists and single answers mixed", "Give every document a list of indices, or none."),
    "mixed": ("indices and texts mixed", "Give every document the index of its choice (from 0)."),
    "blank": ("an empty text as answer", "Correct these documents, or drop them in `process_docs`."),
}
"""Kind of fault -> its words, and the remedy with the places of the answer's field and of letters."""


def read_answers(name: str, leaf: Any, problems: list[Problem]) -> list[str]:
    """The gold answer of every document of the lm-eval task `leaf` as text, or "" for answers that are no classes.

    An answer must be one that a model can give, as lm-eval compares it: an index of the document's choices or the text
    of one of them, not null, hidden (-1), a letter or a float, and of one type in the whole task; every choice is a
    text that is not empty. What breaks this is added to `problems`, a line for the task, with kinds, counts and the
    first item of each. A task with `process_results` compares answers itself: only its choices are looked at.

    Raises :class:`EvaluationError` for a document whose answer or choices cannot be read at all.
    """
    documents = leaf.task_docs
    answers = [""] * len(documents)
    faults: dict[int, AnswerFault] = {}
    types: dict[str, int] = {}

    with compile_templates_once():
        for number, document in enumerate(documents):
            gold = _read(leaf.doc_to_target, document, item=f"{name}/{number}", noun="answer")
            answers[number] = str(gold)
            fault = find_fault(leaf, document, gold, item=f"{name}/{number}")
            if fault is not None:
                faults[number] = fault
            elif leaf.OUTPUT_TYPE == "multiple_choice":
                types.setdefault("text" if isinstance(gold, str) else "index", number)

    # A task all of whose answers can be hit, but some as indices and some as texts: "1" is an index, "1.5" a text.
    if not faults and len(types) > 1 and not _scores_by_itself(leaf) and not leaf.multiple_input:
        faults = {max(types.values()): AnswerFault("mixed", repr(answers[max(types.values())]))}
    if faults:
        problems.append(_describe(name, leaf, faults, len(documents)))
    return answers if len(set(answers)) <= MAX_GOLD_ANSWERS else [""] * len(documents)


def explain_first_document(error: BaseException) -> Problem | None:
    """The fault in a task's first document that made lm-eval's constructor raise `error`; None for another reason.

    The constructor indexes the choices of the first document, so that an answer beyond them, or an empty choice, ends
    in an `IndexError` that names neither.
    """
    trace, task = error.__traceback__, None
    while trace is not None:
        found = trace.tb_frame.f_locals.get("self")
        task = found if hasattr(found, "task_docs") and hasattr(found, "features") else task
        trace = trace.tb_next
    if task is None:
        return None

    document, name = task.task_docs[0], task.config.task
    try:
        fault = find_fault(task, document, task.doc_to_target(document), item=f"{name}/0")
    except Exception:  # the error at hand says more than one of a task that is half built
        return None
    return _describe(name, task, {0: fault}, len(task.task_docs)) if fault else None


def find_fault(leaf: Any, document: Mapping[str, Any], gold: Any, *, item: str) -> AnswerFault | None:
    """The fault of the answer `gold` of one document, or of its choices; None where a model can give it."""
    if leaf.OUTPUT_TYPE in ("loglikelihood", "loglikelihood_rolling"):
        return AnswerFault("blank", "''") if gold == "" else _find_missing(leaf, document, gold)

    if leaf.config.doc_to_choice is None:
        return None if _scores_by_itself(leaf) else _find_missing(leaf, document, gold)

    choices = _read(leaf.doc_to_choice, document, item=item, noun="choices")
    by_choices = _find_bad_choice(choices, by_itself=_scores_by_itself(leaf))
    if by_choices is not None or _scores_by_itself(leaf):
        return by_choices

    if leaf.multiple_input:  # as winogrande: the text is the index of the right context, the target what follows
        gold = _read(leaf.doc_to_text, document, item=item, noun="answer")
    return _find_missing(leaf, document, gold) or _find_bad_gold(leaf, gold, choices)


def _find_bad_choice(choices: Any, *, by_itself: bool) -> AnswerFault | None:
    if not isinstance(choices, list | tuple) or not choices:
        return AnswerFault("choices", _show(choices))
    for number, choice in enumerate(choices):
        if choice is None or (not isinstance(choice, str) and not by_itself):
            return AnswerFault("untext", f"choice {number} is {_show(choice)}")
        if choice == "":
            return AnswerFault("empty", f"choice {number}")
    return None


def _find_missing(leaf: Any, document: Mapping[str, Any], gold: Any) -> AnswerFault | None:
    if gold is None or gold == [] or (isinstance(gold, float) and math.isnan(gold)):
        return AnswerFault("missing", _show(gold))

    # A template writes null as the text "None".
    field = _find_field(leaf)
    absent = field in document and (document[field] is None or document[field] != document[field])
    return AnswerFault("missing", "null") if absent and gold in ("None", "nan") else None


def _find_bad_gold(leaf: Any, gold: Any, choices: list[str]) -> AnswerFault | None:
    """Compare as lm-eval does: an index, or the text of a choice; lists of indices where the first document has one."""
    if isinstance(gold, list) != bool(leaf.multiple_target):
        return AnswerFault("list", _show(gold))
    if isinstance(gold, list):
        found = [_find_bad_index(each, len(choices)) for each in gold]
        return next((fault for fault in found if fault is not None), None)

    # Where answers are generated, lm-eval takes the choice at the index, and knows no texts.
    if isinstance(gold, str) and gold in choices and leaf.OUTPUT_TYPE == "multiple_choice":
        return None
    return _find_bad_index(gold, len(choices))


def _find_bad_index(gold: Any, count: int) -> AnswerFault | None:
    if isinstance(gold, Integral) and 0 <= int(gold) < count:
        return None
    if isinstance(gold, Integral):
        return AnswerFault("hidden", _show(gold)) if int(gold) < 0 else AnswerFault("beyond", f"{gold} of {count}")
    if isinstance(gold, Real):
        return AnswerFault("float", _show(gold))

    text = str(gold)
    if re.fullmatch(r"-\d+", text):
        return AnswerFault("hidden", text)
    kind = "letter" if re.fullmatch(r"[A-Za-z]", text) else "digits" if text.isdigit() else "text"
    return AnswerFault(kind, _show(gold))


def _scores_by_itself(leaf: Any) -> bool:
    return callable(leaf.config.process_results)


def _find_field(leaf: Any) -> str:
    """The field of the documents that `doc_to_target` names, or `answer` where it is no single field."""
    target = leaf.config.doc_to_target
    written = re.fullmatch(r"\s*\{\{\s*(\w+)\s*\}\}\s*", target) if isinstance(target, str) else None
    if written:
        return written[1]
    return target if isinstance(target, str) and target in leaf.features else "answer"


def _read(read: Any, document: Mapping[str, Any], *, item: str, noun: str) -> Any:
    try:
        return read(document)
    except Exception as error:  # templates and the task's own Python may raise anything
        raise EvaluationError(
            f"item '{item}'", f"has no readable {noun} ({describe_cause(error)})", "Correct the task or its data."
        ) from error


def _describe(name: str, leaf: Any, faults: Mapping[int, AnswerFault], total: int) -> Problem:
    first = {fault.kind: number for number, fault in reversed(list(faults.items()))}
    counts = Counter(fault.kind for fault in faults.values())
    parts = [
        f"{count} with {KINDS[kind][0]} (item '{name}/{first[kind]}': {faults[first[kind]].shown})"
        for kind, count in counts.most_common()
    ]

    lower = any(fault.shown.strip("'").islower() for fault in faults.values())
    words = {"field": _find_field(leaf), "letters": ALPHABET.lower() if lower else ALPHABET}
    remedies = [KINDS[kind][1].format(**words) for kind, _ in counts.most_common()]
    found = f"has answers that cannot be right in {len(faults)} of {total} items: {'; '.join(parts)}"
    return Problem(f"task '{name}'", found, " ".join(remedies))


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
