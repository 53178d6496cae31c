"""Rows of a data set that documents were made of, and the documents that are of equal rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aftermix.evaluation.documents.canonical import drop_nulls, hash_document
from aftermix.evaluation.documents.generators import own_generators
from aftermix.evaluation.documents.traced_task import TracedTask

MARK = "aftermix_row"
"""Column with the number of the row, while it is traced through `process_docs`."""


def find_equal_items(leaves: Mapping[str, Any]) -> dict[str, bytes]:
    """Item -> what it shares with others, for each item (`leaf task/document number`) whose row is no one else's alone.

    Items are equal if their rows are, as canonical JSON before `process_docs`, in one task of `leaves` or in several. A
    null is as an absent entry, which storage in columns fills in.
    """
    rows = {name: _hash_rows(leaf) for name, leaf in leaves.items()}
    seen: dict[bytes, int] = defaultdict(int)
    for hashes in rows.values():
        for content in hashes:
            seen[content] += 1

    # Without a repeated row nothing needs to be traced, but where documents outnumber rows.
    repeated = {content for content, count in seen.items() if count > 1}
    owners: dict[bytes, list[str]] = defaultdict(list)
    for name, leaf in leaves.items():
        hashes = rows[name]
        if len(leaf.task_docs) > len(hashes) or not repeated.isdisjoint(hashes):
            for number, content in enumerate(_hash_origins(leaf, hashes)):
                owners[content].append(f"{name}/{number}")
    return {item: content for content, items in owners.items() if len(items) > 1 for item in items}


def _hash_rows(leaf: Any) -> list[bytes]:
    return [hash_document(drop_nulls(row)) for row in _find_rows(leaf)]


def _find_rows(leaf: Any) -> Any:
    """The rows of the split that is evaluated, as the data set has them."""
    return leaf.dataset[leaf.config.test_split if leaf.has_test_docs() else leaf.config.validation_split]


def _hash_origins(leaf: Any, rows: list[bytes]) -> Iterable[bytes]:
    """The hash of the row that each document was made of.

    A `process_docs` that makes rows of its own cannot be traced: as many documents as rows are then taken to be in
    their order, and of another number each stands for itself.
    """
    documents = leaf.task_docs
    if leaf.config.process_docs is None:
        return rows
    numbers = _trace_rows(leaf)
    if numbers is not None:
        return [rows[number] for number in numbers]
    return rows if len(rows) == len(documents) else [hash_document(document) for document in documents]


def _trace_rows(leaf: Any) -> list[int] | None:
    """The number of the row of each document, by a column that goes through `process_docs`; None where it gets lost."""
    rows, process_docs = _find_rows(leaf), leaf.config.process_docs
    made = leaf.find_made(rows) if isinstance(leaf, TracedTask) else None
    try:
        with own_generators(made.states if made else None):
            traced = list(getattr(process_docs, "__wrapped__", process_docs)(rows.add_column(MARK, range(len(rows)))))
        numbers = [int(document.pop(MARK)) for document in traced]
    except Exception:
        return None
    return numbers if traced == list(leaf.task_docs) else None
