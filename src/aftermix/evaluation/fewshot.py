"""Few-shot examples that are never among the scored items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aftermix.errors import EvaluationError
from aftermix.evaluation.documents.canonical import hash_document
from aftermix.seeds import derived_seed

Document = Mapping[str, Any]
RESERVED_SHARE = 10
MAX_RESERVED = 64


@dataclass(frozen=True)
class ExamplePool:
    """Documents that examples are drawn from, and the evaluated documents set aside to be among them."""

    examples: list[Document]
    reserved: frozenset[int]
    """Numbers of evaluated documents that must not be scored."""


def choose_examples(
    pool: Sequence[Document], documents: Sequence[Document], *, shots: int, task: str, seed: int, in_order: bool
) -> ExamplePool:
    """The pool for `shots` examples a prompt that shares no document with the scored ones.

    lm-eval keeps only the prompt's own document out, and not even that when a task has nothing but a test split, so an
    item's answer can stand in another item's prompt. Examples equal to an evaluated document are dropped. Where too few
    are left, a tenth of the evaluated documents (at most 64, at least `shots + 1`, which lm-eval's sampler asks for)
    is reserved: seeded, or the first ones for a task whose sampler takes examples `in_order`.

    Raises :class:`EvaluationError` when the task has fewer than `shots` examples.
    """
    numbers: dict[bytes, list[int]] = {}
    for number, document in enumerate(documents):
        numbers.setdefault(hash_document(document), []).append(number)

    contents = [hash_document(document) for document in pool]
    apart = [document for document, content in zip(pool, contents, strict=True) if content not in numbers]
    if len(apart) == len(pool) >= shots or len(apart) > shots:
        return ExamplePool(list(apart), frozenset())

    # Equal documents are kept or dropped together.
    shared = list(dict.fromkeys(content for content in contents if content in numbers))
    if len(apart) + len(shared) <= shots:
        raise EvaluationError(
            f"task '{task}'",
            f"asked for {shots} few-shot examples, but it has {len(pool)} to draw from",
            "Lower `num_fewshot`.",
        )

    wanted = max(shots + 1 - len(apart), min(MAX_RESERVED, len(documents) // RESERVED_SHARE))
    if not in_order:
        raw = np.random.SFC64(derived_seed(seed, "few-shot", task)).random_raw(len(shared))
        shared = [shared[index] for index in np.argsort(raw, kind="stable")]

    chosen = set(shared[:wanted])
    examples = [document for document, content in zip(pool, contents, strict=True) if content in chosen] + apart
    return ExamplePool(examples, frozenset(number for content in chosen for number in numbers[content]))
