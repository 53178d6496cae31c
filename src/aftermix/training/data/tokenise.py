"""A dataset to a store of tokens, a few documents in memory at a time, kept so that nothing is tokenised twice.

A budget of tokens below the dataset's size is met without tokenising the rest: the documents that the seeded order
puts first are, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.progress import open_bar
from aftermix.seeds import generator
from aftermix.training.data.encoding import ExampleEncoder
from aftermix.training.data.examples import TrainingExample, read_examples, refuse_empty
from aftermix.training.data.token_store import StoreWriter, TokenStore, create_store, open_store

BATCH_EXAMPLES = 256
BATCH_CHARACTERS = 1 << 22
CHARACTERS_PER_TOKEN = 4.0
"""A first guess; what a pass finds takes its place."""
LABELLING = 2
"""Number of the rules by which conversations become tokens and labels: tokens of other rules are not taken up, and an
expert of other rules is not taken for one of these. Raise it with every change of a conversation's tokens or labels.
"""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A dataset on disk and how it is read."""

    path: Path
    format: str = "text"
    text_field: str = "text"
    split: str | None = None
    ignore_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class _DatasetSurvey:
    """Counts from one reading of everything."""

    characters: NDArray[np.int64]
    """Of each document that is not empty."""
    empty: int


def order_documents(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch goes through `count` documents: a function of seed and epoch alone."""
    # Raw draws, not `permutation`, whose algorithm NumPy may change between releases.
    draws = generator(seed, "document order", epoch).bit_generator.random_raw(count)
    return np.argsort(draws, kind="stable")


def tokenise_dataset(
    source: DataSource,
    encode: Callable[[], ExampleEncoder],
    *,
    cache: Path,
    identity: Collection[str],
    tokens: int | None = None,
    seed: int = 0,
) -> TokenStore:
    """The tokens of `source`, from the folder `cache` when they are there.

    `identity` says what decides them beside `source`'s options: hash of the data, tokenizer, versions. With `tokens`,
    plain documents are tokenised in the order of the first epoch until there are as many, or all. `encode` is made
    only when it is needed. Raises :class:`TrainingError` for a record that cannot be used, by its place.
    """
    whole = cache / _build_key(source, identity, None)
    store = open_store(whole)

    # A whole dataset that is there serves a budget of its size or more; a smaller budget has its own first documents.
    if tokens is None or source.format != "text" or (store is not None and store.tokens <= tokens):
        return store or _write_store(whole, lambda writer: _write_all(source, encode(), writer))

    part = cache / _build_key(source, identity, (tokens, seed))
    return open_store(part) or _write_store(part, lambda writer: _write_first(source, encode(), writer, tokens, seed))


def list_reading_rules(format: str, ignore_columns: Collection[str]) -> list[str]:  # noqa: A002 - the key's name
    """Rules beyond the format that decide the tokens of a record: of conversations, and of what is ignored."""
    labels = [f"labels {LABELLING}"] if format == "chat" else []
    return [*labels, *(f"without {name}" for name in sorted(ignore_columns))] if format != "text" else []


def _build_key(source: DataSource, identity: Collection[str], part: tuple[int, int] | None) -> str:
    rules = list_reading_rules(source.format, source.ignore_columns)
    parts = [source.format, source.text_field, part, *identity, *rules]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _write_store(folder: Path, write: Callable[[StoreWriter], None]) -> TokenStore:
    with create_store(folder) as writer:
        write(writer)
    store = open_store(folder)
    assert store is not None  # noqa: S101 - written a moment ago
    return store


def _write_all(source: DataSource, encode: ExampleEncoder, writer: StoreWriter) -> None:
    characters, empty = 0, 0
    for batch in _group_examples(_number_examples(source)):
        empty += sum(number is None for number, _ in batch)
        characters += _add(batch, encode, writer)

    refuse_empty(source.path, writer.documents)
    thoughts = {"thoughts": writer.thoughts, "thoughts_left_out": writer.thoughts_left_out} if writer.thoughts else {}
    writer.close(documents=writer.documents, characters_of_all=characters, empty=empty, **thoughts)


def _write_first(source: DataSource, encode: ExampleEncoder, writer: StoreWriter, tokens: int, seed: int) -> None:
    """Documents in the order of the first epoch until they hold `tokens`, read in as few passes as guesses allow."""
    survey = _survey(source)
    order = order_documents(len(survey.characters), seed=seed, epoch=0)
    in_order = np.cumsum(survey.characters[order])

    rate, done = CHARACTERS_PER_TOKEN, 0
    while done < len(order) and writer.tokens < tokens:
        enough = int(np.searchsorted(in_order, tokens * rate)) + 1
        until = min(max(enough, done + 1 + done // 4), len(order))

        chosen = np.zeros(len(order), dtype=np.bool_)
        chosen[order[done:until]] = True
        for batch in _group_examples(_number_examples(source, chosen)):
            _add(batch, encode, writer)

        # The rate measured, and a little more: a pass too many costs more than a few documents too many.
        done = until
        rate = 1.05 * float(in_order[done - 1]) / max(writer.tokens, 1)

    total = int(in_order[-1])
    writer.close(documents=len(order), characters_of_all=total, empty=survey.empty)


def _survey(source: DataSource) -> _DatasetSurvey:
    counts = [example.characters for example in _read_with_bar(source, "read")]
    filled = [count for count in counts if count]
    refuse_empty(source.path, len(filled))
    return _DatasetSurvey(np.asarray(filled, dtype=np.int64), len(counts) - len(filled))


def _number_examples(
    source: DataSource, chosen: NDArray[np.bool_] | None = None
) -> Iterator[tuple[int | None, TrainingExample]]:
    """The examples with their numbers, of `chosen` numbers where given; an empty one has no number."""
    number = 0
    for example in _read_with_bar(source, "tokenise"):
        if not example.characters:
            yield None, example
            continue

        if chosen is None or chosen[number]:
            yield number, example
        number += 1


def _read_with_bar(source: DataSource, doing: str) -> Iterable[TrainingExample]:
    """The examples, behind a bar when it takes longer than a moment."""
    documents = read_examples(
        source.path,
        format=source.format,
        text_field=source.text_field,
        split=source.split,
        ignore_columns=source.ignore_columns,
    )
    return open_bar(documents, desc=f"{doing} {source.path.name}", unit="document", delay=3, leave=False)


def _group_examples(
    numbered: Iterable[tuple[int | None, TrainingExample]],
) -> Iterator[list[tuple[int | None, TrainingExample]]]:
    batch: list[tuple[int | None, TrainingExample]] = []
    characters = 0
    for entry in numbered:
        batch.append(entry)
        characters += entry[1].characters
        if len(batch) == BATCH_EXAMPLES or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0

    if batch:
        yield batch


def _add(batch: list[tuple[int | None, TrainingExample]], encode: ExampleEncoder, writer: StoreWriter) -> int:
    """Append a batch without its empty ones; its characters."""
    filled = [(number, example) for number, example in batch if number is not None]
    if not filled:
        return 0

    for (number, example), encoded in zip(filled, encode([example for _, example in filled]), strict=True):
        writer.add(number, encoded, characters=example.characters)
    return sum(example.characters for _, example in filled)
