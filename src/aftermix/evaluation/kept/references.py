"""Reference answers of generated tasks: the right answer after the prompt, whose log-likelihood is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.utils import ends_with_whitespace

from aftermix.evaluation.requests import LeafRequests

REFERENCE = "reference_loglikelihood"
"""Kind of request, and the method of the live model that answers it."""


def build_references(parts: Sequence[LeafRequests], lm: Any, *, chat: bool) -> dict[int, tuple[Any, str]]:
    """By the id of each instance whose answer is generated: the request that scores its right answer, and this text.

    The right answer is the text of `doc_to_target`, the first of several, joined to the prompt as lm-eval joins a
    choice. None for an item without a text, or with one that the model cannot read: longer than it, or without tokens;
    and none at all where `lm` is no model of ours.
    """
    if not hasattr(lm, REFERENCE):
        return {}

    found: dict[int, tuple[Any, str]] = {}
    for part in parts:
        for group in part.instances:
            for instance in group:
                target = _read_target(part.leaf, instance.doc) if instance.request_type == "generate_until" else ""
                pair = instance.args[0], _find_delimiter(part.leaf, chat=chat) + target
                if target and lm.can_score(*pair):
                    metadata = (instance.task_name, instance.doc_id, 1)
                    found[id(instance)] = Instance(REFERENCE, instance.doc, pair, 0, metadata), target
    return found


def list_reference_requests(references: Mapping[int, tuple[Any, str]]) -> list[Any]:
    """The requests of references, in order."""
    return [instance for instance, _ in references.values()]


def _read_target(leaf: Any, document: Any) -> str:
    """The right answer as text, "" where the task has none."""
    try:
        target = leaf.doc_to_target(document)
        if leaf.config.doc_to_choice is not None and isinstance(target, int):
            target = leaf.doc_to_choice(document)[target]
    except Exception:  # templates and the task's own Python may raise anything; the score needs no such text
        return ""

    if isinstance(target, list | tuple):
        target = target[0] if target else ""
    return str(target) if isinstance(target, str | Number) else ""


def _find_delimiter(leaf: Any, *, chat: bool) -> str:
    """The text between prompt and answer; after a chat template nothing, unless the answer's beginning is given."""
    begun = leaf.config.gen_prefix
    joins = not chat or (begun and not ends_with_whitespace(begun))
    return str(leaf.config.target_delimiter) if joins else ""
