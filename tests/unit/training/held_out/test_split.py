"""Documents held out by their content: the share, equal ones together, across domains, and what is trained on then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.training.data.encoding import EncodedExample
from aftermix.training.data.packing import CutStream, pack_stream
from aftermix.training.data.packing_whole import WholeStream
from aftermix.training.data.token_store import TokenStore
from aftermix.training.held_out import split
from aftermix.training.held_out.curve import plan_points
from aftermix.training.held_out.split import collect_sequences, split_documents


def collect(documents: list[list[int]], answered: list[list[bool]] | None = None) -> TokenStore:
    marks = [None] * len(documents) if answered is None else [np.asarray(row) for row in answered]
    encoded = [EncodedExample(np.asarray(ids, np.int32), mark) for ids, mark in zip(documents, marks, strict=True)]
    return TokenStore.collect(encoded, characters=(10 * len(ids) for ids in documents))


def list_documents(store: TokenStore | None) -> list[tuple[int, ...]]:
    if store is None:
        return []
    return [tuple(store.ids[store.locate_document(at)].tolist()) for at in range(len(store.ends))]


DOCUMENTS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=40)


@given(DOCUMENTS, DOCUMENTS, st.floats(0.01, 0.5), st.integers(0, 3))
@settings(max_examples=60)
def test_equal_documents_are_on_one_side(
    first: list[list[int]], second: list[list[int]], share: float, seed: int
) -> None:
    parts = split_documents({"a": collect(first), "b": collect(second)}, share, seed=seed)
    trained = {document for part in parts.values() for document in list_documents(part.trained)}
    held = {document for part in parts.values() for document in list_documents(part.held)}
    for part, documents in zip(parts.values(), (first, second), strict=True):
        both = list_documents(part.trained) + list_documents(part.held)
        assert sorted(both) == sorted(map(tuple, documents))
        assert part.trained.complete
        assert part.trained.tokens == sum(map(len, list_documents(part.trained)))
    # A domain that would be held out whole is trained on; only then does a document stand on both sides.
    if all(part.held is not None for part in parts.values()):
        assert not trained & held


def test_the_share_is_met_by_whole_documents() -> None:
    documents = [[n % 251, n // 251, 7] for n in range(1000)]
    for share, wanted in ((0.01, 10), (0.25, 250), (0.0001, 1)):
        part = split_documents({"a": collect(documents)}, share, seed=0)["a"]
        assert wanted <= part.documents <= wanted + 1
    assert split_documents({"a": collect(documents)}, 0.0, seed=0)["a"].held is None
    assert split_documents({"a": collect([[1, 2]] * 50)}, 0.5, seed=0)["a"].held is None

    # Another seed holds others out; the order of the documents decides nothing.
    one, other = (split_documents({"a": collect(documents)}, 0.02, seed=seed)["a"] for seed in (0, 1))
    turned = split_documents({"a": collect(documents[::-1])}, 0.02, seed=0)["a"]
    assert set(list_documents(one.held)) == set(list_documents(turned.held)) != set(list_documents(other.held))


def test_tokens_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MOST_TOKENS", 100)
    documents = [[n % 251, n // 251, *[7] * 18] for n in range(1000)]
    part = split_documents({"a": collect(documents)}, 0.5, seed=0)["a"]
    assert (part.documents, part.held and part.held.tokens) == (5, 100)

    # One document beyond the cap is cut where it is measured.
    long = [[n, *[7] * 500] for n in range(4)]
    part = split_documents({"a": collect(long)}, 0.25, seed=0)["a"]
    assert part.held is not None
    rows = collect_sequences(CutStream(part.held, 64, 0))
    assert sum(map(len, rows)) == 100


def test_labels_are_part_of_the_content_and_long_examples_stay() -> None:
    ids = [[1, 2, 3, 4]] * 4 + [[1, 2, 3, 4, 5, 6]] * 4
    marks = [[False, False, True, True]] * 2 + [[False, True, True, True]] * 2 + [[False] * 3 + [True] * 3] * 4
    part = split_documents({"a": collect(ids, marks)}, 0.01, seed=0, longest={"a": 4})["a"]
    assert list_documents(part.held) == [(1, 2, 3, 4)] * 2
    assert part.held is not None
    assert len(collect_sequences(WholeStream(part.held, 4, 0))) == 2


def test_what_is_held_out_is_not_in_the_sequences() -> None:
    """Every trained token comes from a trained document, in the order of the whole dataset without the others."""
    documents = [[n, n] for n in range(1, 41)]
    whole = collect(documents)
    part = split_documents({"a": whole}, 0.2, seed=3)["a"]
    held = {document[0] for document in list_documents(part.held)}
    plain = pack_stream(CutStream(whole, 8, 5), tokens=160, where="a")
    ours = pack_stream(CutStream(part.trained, 8, 5), tokens=2 * part.trained.tokens, where="a")
    stream = [int(token) for row in plain for token in row.ids]
    kept = [int(token) for row in ours for token in row.ids]
    assert kept == [token for token in stream if token not in held]
    assert len(held) in (8, 9)
    assert ours.epochs == 2
    assert ours.documents == 2 * (40 - len(held))


def test_points_are_few_where_they_are_dear() -> None:
    assert sorted(plan_points(400, trained_tokens=10**6, held_tokens=10**4)) == list(range(0, 401, 20))
    assert sorted(plan_points(400, trained_tokens=10**6, held_tokens=5 * 10**4)) == [0, 67, 133, 200, 267, 333, 400]
    assert len(plan_points(400, trained_tokens=10**6, held_tokens=10**6)) == 5
    assert sorted(plan_points(3, trained_tokens=100, held_tokens=10**5)) == [0, 1, 2, 3]
    assert sorted(plan_points(1, trained_tokens=100, held_tokens=1)) == [0, 1]
