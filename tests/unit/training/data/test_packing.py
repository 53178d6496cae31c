"""Packing by hand, and against a slow reference on random documents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import TrainingError
from aftermix.training.data.examples import TextDocuments
from aftermix.training.data.packing import PackedTokens, order_documents, pack_documents

END = 0


def encode(texts: list[str]) -> list[list[int]]:
    """One token a character, then the end."""
    return [[ord(letter) for letter in text] + [END] for text in texts]


def documents(*texts: str) -> TextDocuments:
    return TextDocuments(path=Path("corpus.jsonl"), texts=list(texts), empty=0)


def rows(packed: PackedTokens) -> list[list[int]]:
    assert [len(packed[index]) for index in range(len(packed))] == packed.lengths.tolist()
    return [packed[index].ids.tolist() for index in range(len(packed))]


def letters(row: list[int]) -> str:
    return "".join("." if token == END else chr(token) for token in row)


def test_one_epoch_by_hand() -> None:
    corpus = documents("abc", "de", "f")
    order = order_documents(3, seed=0, epoch=0)
    stream = "".join(("abc.", "de.", "f.")[number] for number in order)
    packed = pack_documents(corpus, encode, context=4, tokens=None, seed=0)
    assert [letters(row) for row in rows(packed)] == [stream[0:4], stream[4:8], stream[8:9]]
    assert (packed.epochs, packed.tokens_per_epoch, packed.documents) == (1.0, 9, 3)
    assert packed[0].ids.dtype == packed[0].labels.dtype == torch.int64
    assert torch.equal(packed[0].ids, packed[0].labels)
    assert packed[0].positions is None


def test_repeated_in_a_new_order_each_epoch_and_cut_at_the_token() -> None:
    corpus = documents("abc", "de", "f")
    packed = pack_documents(corpus, encode, context=4, tokens=24, seed=7)
    orders = [order_documents(3, seed=7, epoch=epoch) for epoch in range(3)]
    stream = "".join(("abc.", "de.", "f.")[number] for order in orders for number in order)[:24]
    assert "".join(letters(row) for row in rows(packed)) == stream
    assert packed.tokens == 24
    assert packed.epochs == pytest.approx(24 / 9)
    assert packed.tokens_per_epoch == 9


def test_less_than_an_epoch_takes_the_first_documents_of_the_order() -> None:
    corpus = documents(*[letter * 9 for letter in "abcdefghij"])
    order = order_documents(10, seed=3, epoch=0)
    packed = pack_documents(corpus, encode, context=5, tokens=25, seed=3)
    expected = "".join("abcdefghij"[number] * 9 + "." for number in order)[:25]
    assert "".join(letters(row) for row in rows(packed)) == expected
    assert packed.tokens_per_epoch == 100
    assert packed.epochs == pytest.approx(2.5 / 10)
    assert packed.documents == 3


def test_orders_are_permutations_that_depend_on_seed_and_epoch_only() -> None:
    orders = {(seed, epoch): tuple(order_documents(50, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len(set(orders.values())) == 4
    assert tuple(order_documents(50, seed=1, epoch=1)) == orders[1, 1]
    assert order_documents(6, seed=0, epoch=0).tolist() == [1, 0, 2, 3, 5, 4]  # part of the format: never changes


def test_too_little_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"corpus.jsonl: holds 4 tokens, less than one sequence of 8. Lower"):
        pack_documents(documents("abc"), encode, context=8, tokens=None, seed=0)
    with pytest.raises(TrainingError, match=r"holds 4 tokens, less than one sequence of 8"):
        pack_documents(documents("abc"), encode, context=8, tokens=80, seed=0)
    with pytest.raises(TrainingError, match=r"asks for 7 tokens, less than one sequence of 8. Raise `tokens:`"):
        pack_documents(documents("abc" * 99), encode, context=8, tokens=7, seed=0)


def test_an_index_beyond_the_end() -> None:
    packed = pack_documents(documents("abcdefg"), encode, context=4, tokens=None, seed=0)
    with pytest.raises(IndexError):
        packed[2]
    assert [row.ids.tolist() for row in packed] == rows(packed)


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=12), min_size=1, max_size=300),
    context=st.integers(1, 9),
    tokens=st.none() | st.integers(9, 400),
    seed=st.integers(0, 5),
)
def test_no_token_is_dropped(texts: list[str], context: int, tokens: int | None, seed: int) -> None:
    """Slow twin: write the stream out, epoch after epoch, and cut it."""
    encoded = encode(texts)
    per_epoch = sum(map(len, encoded))
    if per_epoch < context:
        return
    wanted = tokens or per_epoch
    stream: list[int] = []
    epoch = 0
    while len(stream) < wanted:
        for number in order_documents(len(texts), seed=seed, epoch=epoch):
            stream += encoded[number]
        epoch += 1
    packed = pack_documents(documents(*texts), encode, context=context, tokens=tokens, seed=seed)
    assert [token for row in rows(packed) for token in row] == stream[:wanted]
    assert all(len(row) == context for row in rows(packed)[:-1])
    if packed.tokens_per_epoch is not None:
        assert packed.epochs == pytest.approx(wanted / per_epoch)
