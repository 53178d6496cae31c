"""Keys that a task's scoring returns, found with made-up answers before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance

from aftermix.evaluation.documents.generators import own_generators
from aftermix.evaluation.quiet import quiet
from aftermix.evaluation.requests import compile_templates_once
from aftermix.evaluation.scoring.metrics import BYTES_OF, TaskMetric, read_item_values

ENOUGH_DOCUMENTS = 200
"""Documents after which a key that the task declares itself is no longer looked for."""
WRONG_ANSWERS = ("", "?", "no idea")
"""Answers of no use, as small models give them."""


@dataclass(frozen=True)
class ScoringKeys:
    """Keys that the scoring of some documents returned."""

    keys: tuple[str, ...]
    complete: bool
    """False where some document could not be scored with a made-up answer, or not all were: there may be more keys."""


def find_keys(leaf: Any, filter_name: str, wanted: str, *, documents: Iterable[int] | None = None) -> ScoringKeys:
    """The keys of the scores of `documents` (all by default), until `wanted` is among them.

    A metric's function may return several numbers, and `process_results` other keys for other documents. A task that
    runs generated code is not scored: it may do harm.
    """
    if getattr(leaf, "UNSAFE_CODE", False):
        return ScoringKeys((), complete=False)

    keys: dict[str, None] = {}
    complete, declared = True, wanted in leaf._metric_fn_list
    with quiet(), compile_templates_once(), own_generators():
        for count, number in enumerate(range(len(leaf.task_docs)) if documents is None else documents):
            if wanted in keys:
                break
            if declared and count == ENOUGH_DOCUMENTS:
                complete = False
                break
            try:
                scored = _score_made_up(leaf, leaf.task_docs[number], filter_name)
                keys |= dict.fromkeys(key for key in scored if not key.endswith(BYTES_OF))
            except Exception:  # the task's own Python may raise anything at an answer that no model gave
                complete = False
    return ScoringKeys(tuple(keys), complete=complete)


def find_largest_value(leaf: Any, documents: Iterable[Any], metric: TaskMetric) -> float | None:
    """The largest magnitude of `metric` over right answers to `documents`; None where no made-up answer is scored."""
    if getattr(leaf, "UNSAFE_CODE", False):
        return None

    largest: float | None = None
    with quiet(), compile_templates_once(), own_generators():
        for document in documents:
            try:
                value = _score_made_up(leaf, document, metric.filter).get(metric.name)
            except Exception:  # noqa: S112 - as above, at an answer that no model gave
                continue
            if value is not None and math.isfinite(value):
                largest = max(abs(value), largest or 0.0)
    return largest


def drops_answers(leaf: Any, documents: Iterable[Any], metric: TaskMetric) -> bool:
    """True if the scoring of some document gives one made-up answer a value of `metric`, and another none.

    Which key an item has is a matter of the document; a value that depends on the answer makes means of other items for
    every model.
    """
    computes = callable(leaf.config.process_results) and not getattr(leaf, "UNSAFE_CODE", False)
    if not computes or leaf.OUTPUT_TYPE not in ("generate_until", "multiple_choice"):
        return False

    with quiet(), compile_templates_once(), own_generators():
        for document in documents:
            try:
                right = _score_made_up(leaf, document, metric.filter)
                others = [_score_made_up(leaf, document, metric.filter, answer=text) for text in WRONG_ANSWERS]
            except Exception:  # noqa: S112 - as above, at an answer that no model gave
                continue
            if len({_has_value(values, metric) for values in (right, *others)}) > 1:
                return True
    return False


def _has_value(values: dict[str, float], metric: TaskMetric) -> bool:
    value = values.get(metric.name)
    return value is not None and not (metric.skips_nan and math.isnan(value))


def _score_made_up(leaf: Any, document: Any, filter_name: str, *, answer: str | None = None) -> dict[str, float]:
    return read_item_values(leaf, leaf.process_results(document, _make_answers(leaf, document, filter_name, answer)))


def _make_answers(leaf: Any, document: Any, filter_name: str, answer: str | None = None) -> list[Any]:
    """Answers as a model might give them: the first choice, the right text, or a log-likelihood of -1.

    With the text `answer` a model says that, or takes the last choice.
    """
    if leaf.OUTPUT_TYPE == "loglikelihood_rolling":
        return [-1.0]
    if leaf.OUTPUT_TYPE == "loglikelihood":
        return [(-1.0, False)]
    if leaf.OUTPUT_TYPE == "multiple_choice":
        made = leaf.construct_requests(doc=document, ctx=[""] * leaf.multiple_input or "", metadata=(None, 0, 1))
        taken = 0 if answer is None else len(made) - 1
        return [(-1.0 - (number != taken), number == taken) for number in range(len(made))]

    target = leaf.doc_to_target(document)
    right = target[0] if isinstance(target, list) and target else target
    text = str(right) if answer is None else answer
    repeats = leaf.get_config("repeats") or 1
    request = Instance("generate_until", document, ("", {}), 0, (None, 0, repeats), resps=[text] * repeats)
    next(ensemble for ensemble in leaf._filters if ensemble.name == filter_name).apply([request])
    return [request.filtered_resps[filter_name]]
