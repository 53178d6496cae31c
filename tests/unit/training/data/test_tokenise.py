"""Tokens kept on disk: the same stream as from memory, made once, never trusted when damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import RunFailedError, TrainingError
from aftermix.training.data.encoding import EncodedExample, ExampleEncoder
from aftermix.training.data.examples import TrainingExample, read_documents
from aftermix.training.data.packing import CutStream, pack_documents, pack_stream
from aftermix.training.data.token_store import TokenStore, open_store
from aftermix.training.data.tokenise import DataSource, order_documents, tokenise_dataset


class Counting:
    """One token a character, then 0; counts what it encodes."""

    def __init__(self, *, answers: bool = False) -> None:
        self.documents, self.answers = 0, answers

    def __call__(self) -> ExampleEncoder:
        return self.encode

    def encode(self, batch: Sequence[TrainingExample]) -> list[EncodedExample]:
        self.documents += len(batch)
        found = [np.asarray([*(ord(c) for c in example.prompt + example.text), 0], np.int32) for example in batch]
        if not self.answers:
            return [EncodedExample(ids) for ids in found]
        return [EncodedExample(ids, np.arange(len(ids)) >= len(e.prompt)) for ids, e in zip(found, batch, strict=True)]


def in_memory(texts: list[str]) -> list[list[int]]:
    return [[*map(ord, text), 0] for text in texts]


def corpus(path: Path, texts: list[str]) -> DataSource:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return DataSource(path=path)


def same(one: TokenStore, other: TokenStore) -> bool:
    names = ("ids", "ends", "numbers", "characters")
    facts = ("documents", "characters_of_all", "empty", "highest", "complete")
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    return arrays and all(getattr(one, fact) == getattr(other, fact) for fact in facts)


@settings(max_examples=40)
@given(
    texts=st.lists(st.text(alphabet="abcdefgh", max_size=12), min_size=1, max_size=400).filter(any),
    tokens=st.none() | st.integers(5, 900),
    seed=st.integers(0, 3),
)
def test_the_stream_is_that_of_documents_in_memory(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], tokens: int | None, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    source = corpus(folder / "a.jsonl", texts)
    documents = read_documents(source.path)
    if sum(map(len, documents.texts)) + len(documents.texts) < 5:
        return
    expected = pack_documents(documents, in_memory, context=5, tokens=tokens, seed=seed)
    store = tokenise_dataset(source, Counting(), cache=folder / "cache", identity=["x"], tokens=tokens, seed=seed)
    found = pack_stream(CutStream(store, 5, seed), tokens=tokens, where="-")
    assert [row.ids.tolist() for row in found] == [row.ids.tolist() for row in expected]
    assert found.documents == expected.documents
    assert store.empty == documents.empty
    assert store.documents == len(documents.texts)
    if found.tokens_per_epoch is not None:
        assert (found.epochs, found.tokens_per_epoch) == (expected.epochs, expected.tokens_per_epoch)
    else:
        assert 0 < found.epochs <= 1


def test_a_small_budget_does_not_tokenise_the_rest(tmp_path: Path) -> None:
    texts = [letter * (10 + 37 * (at % 5)) for at, letter in enumerate("abcdefghij" * 100)]
    source = corpus(tmp_path / "a.jsonl", texts)
    counting = Counting()
    store = tokenise_dataset(source, counting, cache=tmp_path / "cache", identity=[], tokens=2000, seed=1)
    assert not store.complete
    assert 2000 <= store.tokens < 20_000
    assert counting.documents == len(store.ends) < 150
    found = pack_stream(CutStream(store, 10, 1), tokens=2000, where="-")
    assert found.tokens_per_epoch is None
    order = order_documents(1000, seed=1, epoch=0)[: found.documents]
    used = sum(len(texts[number]) for number in order[:-1])
    assert used < 2000
    last = texts[order[-1]]
    share = (used + len(last) * (2000 - used - len(order) + 1) / (len(last) + 1)) / sum(map(len, texts))
    assert found.epochs == pytest.approx(share)


def test_made_once_and_again_only_when_something_else_is_asked_for(tmp_path: Path) -> None:
    source = corpus(tmp_path / "a.jsonl", ["abc", "de"] * 300)
    ask: Callable[..., TokenStore] = lambda **more: tokenise_dataset(  # noqa: E731
        source, counting, **{"cache": tmp_path / "cache", "identity": ["x"], **more}
    )
    counting = Counting()
    first = ask()
    assert counting.documents == 600
    assert isinstance(first.ids, np.memmap)
    assert same(ask(), first)
    assert same(ask(tokens=99_999), first)
    assert counting.documents == 600
    ask(identity=["y"])
    assert counting.documents == 1200
    ask(tokens=20)
    after_part = counting.documents
    assert 1200 < after_part < 1300
    ask(tokens=20)
    assert counting.documents == after_part


def test_a_damaged_store_is_made_again(tmp_path: Path) -> None:
    source = corpus(tmp_path / "a.jsonl", ["abc", "de"] * 30)
    counting = Counting()
    cache = tmp_path / "cache"
    before = [np.array(tokenise_dataset(source, counting, cache=cache, identity=[]).ids)]
    (folder,) = cache.iterdir()
    assert open_store(folder) is not None
    content = bytearray((folder / "ids.bin").read_bytes())
    content[8] ^= 1
    (folder / "ids.bin").write_bytes(content)
    assert open_store(folder) is None
    for damage in (lambda: None, (folder / "store.json").unlink, lambda: (folder / "store.json").write_text("{}")):
        damage()
        before.append(np.array(tokenise_dataset(source, counting, cache=cache, identity=[]).ids))
    assert all(np.array_equal(before[0], again) for again in before)
    assert counting.documents == 60 * 4
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_answers_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "ab", "completion": "c"}\n{"prompt": "", "completion": "de"}\n')
    source = DataSource(path=tmp_path / "a.jsonl", format="completion")
    store = tokenise_dataset(source, Counting(answers=True), cache=tmp_path / "cache", identity=[], tokens=3)
    assert store.complete
    assert store.answered is not None
    assert store.answered.tolist() == [False, False, True, True, True, True, True]
    assert store.highest == ord("e")


def test_faults_leave_no_store(tmp_path: Path) -> None:
    source = corpus(tmp_path / "a.jsonl", ["abc"] * 600)
    with source.path.open("a") as file:
        file.write('{"txt": 1}\n')
    for tokens in (None, 20):
        with pytest.raises(TrainingError, match=r"a.jsonl, line 601: has no field 'text'"):
            tokenise_dataset(source, Counting(), cache=tmp_path / "cache", identity=[], tokens=tokens)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(TrainingError, match=r"b.jsonl: holds no text"):
        tokenise_dataset(corpus(tmp_path / "b.jsonl", ["", ""]), Counting(), cache=tmp_path / "cache", identity=[])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailedError, match=r"the tokens cannot be kept \(.*Free some room, or name another folder"):
        tokenise_dataset(corpus(tmp_path / "c.jsonl", ["x"]), Counting(), cache=tmp_path / "file", identity=[])
