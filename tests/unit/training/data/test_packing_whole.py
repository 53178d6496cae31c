"""Examples packed whole: nothing cut, nothing lost, the loss on answers alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import TrainingError
from aftermix.training.data.collate import IGNORED
from aftermix.training.data.encoding import EncodedExample
from aftermix.training.data.packing import pack_stream
from aftermix.training.data.packing_whole import WholeStream, pack_best_fit
from aftermix.training.data.token_store import TokenStore
from aftermix.training.data.tokenise import order_documents


def store_of(lengths: list[int]) -> TokenStore:
    """Example `n` is its number in every token but the last, which is 0; the second half is answered."""
    encoded = []
    for number, length in enumerate(lengths, 1):
        ids = np.asarray([number] * (length - 1) + [0], dtype=np.int32)
        encoded.append(EncodedExample(ids, np.arange(length) >= length // 2))
    return TokenStore.collect(encoded, characters=lengths)


def slow_best_fit(lengths: list[int], context: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        rooms = [(context - sum(lengths[p] for p in group), number) for number, group in enumerate(groups)]
        fitting = [(room, number) for room, number in rooms if room >= lengths[place]]
        if fitting:
            groups[min(fitting)[1]].append(place)
        else:
            groups.append([place])
    return sorted(sorted(group) for group in groups)


@settings(max_examples=100)
@given(lengths=st.lists(st.integers(1, 9), max_size=30))
def test_best_fit_against_its_slow_twin(lengths: list[int]) -> None:
    assert pack_best_fit(lengths, context=9) == slow_best_fit(lengths, 9)


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=40), epochs=st.integers(1, 3), masked=st.booleans())
def test_every_example_whole_once_an_epoch(lengths: list[int], epochs: int, masked: bool) -> None:
    store = store_of(lengths)
    stream = WholeStream(store, 12, seed=3, masked=masked)
    wanted = epochs * store.tokens
    sequences = pack_stream(stream, tokens=max(wanted, 12), where="-")
    if wanted >= 12:
        assert sequences.tokens == wanted
        assert sequences.epochs == epochs
        assert sequences.documents == epochs * len(lengths)
    seen: list[int] = []
    for row, length in zip(sequences, sequences.lengths, strict=True):
        assert len(row) == length <= 12
        ids, labels = row.ids.tolist(), row.labels.tolist()
        while ids:
            number, size = ids[0], lengths[ids[0] - 1]
            assert ids[:size] == [number] * (size - 1) + [0]
            answers = [IGNORED] * max(size // 2, 1) + ids[max(size // 2, 1) : size]
            assert labels[:size] == answers
            seen.append(number)
            ids, labels = ids[size:], labels[size:]
    if wanted >= 12:
        assert sorted(seen) == sorted(list(range(1, len(lengths) + 1)) * epochs)


def test_a_budget_is_met_to_the_next_whole_sequence_and_epochs_differ() -> None:
    store = store_of([4] * 9)
    stream = WholeStream(store, 8, seed=0)
    assert pack_stream(stream, tokens=17, where="-").lengths.tolist() == [8, 8, 8]
    assert pack_stream(stream, tokens=None, where="-").lengths.tolist() == [8, 8, 8, 8, 4]
    orders = [order_documents(9, seed=0, epoch=epoch) + 1 for epoch in (0, 1)]
    firsts = [int(stream.read_sequence(0).ids[0]), int(stream.read_sequence(5).ids[0])]
    assert firsts == [orders[0][0], orders[1][0]]
    assert stream.read_sequence(0).ids.tolist() == stream.read_sequence(0).ids.tolist()


def test_examples_longer_than_the_context() -> None:
    store = store_of([3, 20, 5, 11])
    with pytest.raises(
        TrainingError, match=r"a.jsonl: 2 of 4 examples are longer than 8 tokens, up to 20. Raise `train"
    ) as error:
        WholeStream(store, 8, seed=0, where="a.jsonl")
    assert str(error.value).endswith("to `cut` or `skip`. The longest is example 2 in order of the data.")
    cut = pack_stream(WholeStream(store, 8, seed=0, longer="cut"), tokens=None, where="-")
    assert cut.tokens == 39 == sum(len(row) for row in cut)
    assert cut.documents == 4
    stream = WholeStream(store, 8, seed=0, longer="skip")
    skipped = pack_stream(stream, tokens=16, where="-")
    assert stream.skipped == 2
    assert skipped.tokens == 16
    assert skipped.epochs == 2
    with pytest.raises(TrainingError, match=r"every example is longer than 2 tokens"):
        WholeStream(store, 2, seed=0, longer="skip")
