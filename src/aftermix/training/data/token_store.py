"""A dataset as tokens: arrays in memory, or mapped from files that a later run opens instead of tokenising again.

A folder of a store holds `ids.bin` (int32), `answered.bin` (one byte a token, where the loss is not everywhere),
`ends.bin`, `numbers.bin`, `characters.bin` (int64, one entry a document) and `store.json`, which has the XXH3 of each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import RunFailedError
from aftermix.files import fingerprint, write_json
from aftermix.training.data.encoding import EncodedExample, TokenIds

TYPES: dict[str, type] = {
    "ids": np.int32,
    "answered": np.bool_,
    "ends": np.int64,
    "numbers": np.int64,
    "characters": np.int64,
}
NOTE = "store.json"


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Documents `0..d-1`; document `i` is `ids[ends[i - 1]:ends[i]]`."""

    ids: TokenIds
    """(tokens,) int32."""
    answered: NDArray[np.bool_] | None
    """(tokens,): where the loss is; None: everywhere."""
    ends: NDArray[np.int64]
    """(d,)."""
    numbers: NDArray[np.int64]
    """(d,): which document of the dataset each one is, empty ones not counted."""
    characters: NDArray[np.int64]
    """(d,)."""
    documents: int
    """Documents of the dataset; more than `d` where only those that a budget needs were tokenised."""
    characters_of_all: int
    empty: int
    """Documents without text, which were left out."""
    highest: int
    """The largest token id."""
    thoughts: int = 0
    """Thoughts in conversations."""
    thoughts_left_out: int = 0
    """Of these, those that the chat template does not write."""
    starts: NDArray[np.int64] | None = None
    """(d,): place of the first token of each document; None where they follow one another."""
    left_out: int = 0
    """Documents of the dataset that were tokenised and taken out again."""

    @property
    def complete(self) -> bool:
        """True when all of the dataset is here, but for what was taken out."""
        return len(self.ends) + self.left_out == self.documents

    @property
    def tokens(self) -> int:
        """Tokens of the documents that are here."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate_document(self, document: int) -> slice:
        """Places of the tokens of a document."""
        length = int(self.lengths[document])
        start = int(self.ends[document]) - length if self.starts is None else int(self.starts[document])
        return slice(start, start + length)

    def select(self, kept: NDArray[np.bool_]) -> TokenStore:
        """The store of the documents that are `kept`; their tokens stay where they are."""
        starts = self.ends - self.lengths if self.starts is None else self.starts
        return replace(
            self,
            ends=np.cumsum(self.lengths[kept], dtype=np.int64),
            numbers=self.numbers[kept],
            characters=self.characters[kept],
            characters_of_all=self.characters_of_all - int(self.characters[~kept].sum()),
            starts=starts[kept],
            left_out=self.left_out + int((~kept).sum()),
        )

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(d,): tokens of each document."""
        return np.diff(self.ends, prepend=0)

    @classmethod
    def collect(cls, encoded: Iterable[EncodedExample], *, characters: Iterable[int], empty: int = 0) -> TokenStore:
        """A whole dataset in memory; `characters` of each document."""
        whole = list(encoded)
        lengths = [len(each.ids) for each in whole]

        counts = np.fromiter(characters, np.int64)
        marks = [each.answered for each in whole if each.answered is not None]
        ids = np.concatenate([each.ids for each in whole]) if whole else np.empty(0, np.int32)

        return cls(
            ids=ids,
            answered=np.concatenate(marks) if marks else None,
            ends=np.cumsum(lengths, dtype=np.int64),
            numbers=np.arange(len(whole), dtype=np.int64),
            characters=counts,
            documents=len(whole),
            characters_of_all=int(counts.sum()),
            empty=empty,
            highest=int(ids.max(initial=0)),
        )


class StoreWriter:
    """Appends documents to the files of a new store; see :func:`create_store`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self.tokens, self.highest, self.documents = 0, 0, 0
        self.thoughts, self.thoughts_left_out = 0, 0

    def add(self, number: int, encoded: EncodedExample, *, characters: int) -> None:
        """Append document `number` of the dataset."""
        self.tokens += len(encoded.ids)
        self.documents += 1
        self.thoughts += encoded.thoughts
        self.thoughts_left_out += encoded.thoughts_left_out
        self.highest = max(self.highest, int(encoded.ids.max(initial=0)))

        for name, values in {
            "ids": encoded.ids,
            "answered": encoded.answered,
            "ends": self.tokens,
            "numbers": number,
            "characters": characters,
        }.items():
            if values is not None:
                self._open_file(name).write(np.asarray(values, dtype=TYPES[name]).tobytes())

    def _open_file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.bin").open("wb")
        return self._files[name]

    def close(self, **facts: int) -> None:
        """Finish the files and write `store.json` with `facts`."""
        for file in self._files.values():
            file.close()

        hashes = {name: fingerprint(self._folder / f"{name}.bin") for name in self._files}
        write_json(self._folder / NOTE, {"files": hashes, "highest": self.highest, **facts})


@contextmanager
def create_store(folder: Path) -> Iterator[StoreWriter]:
    """A writer whose files become `folder` when it is left without an exception, whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.incomplete")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)

        writer = StoreWriter(unfinished)
        yield writer

        if open_store(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        unfinished.rename(folder)
    except OSError as error:
        if folder.is_dir():  # another process was faster, with the same content
            return
        remedy = "Free some room, or name another folder with `train.cache`."
        raise RunFailedError(str(folder), f"the tokens cannot be kept ({error})", remedy) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_store(folder: Path) -> TokenStore | None:
    """The store in `folder`, mapped into memory; None when there is none, or not as it was written."""
    try:
        note: dict[str, Any] = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        hashes = note.pop("files")
        if any(fingerprint(folder / f"{name}.bin") != known for name, known in hashes.items()):
            return None

        arrays: dict[str, Any] = {name: _map_array(folder / f"{name}.bin", TYPES[name]) for name in hashes}
        return TokenStore(**{"answered": None, **arrays}, **note)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _map_array(path: Path, kind: type) -> NDArray[Any]:
    return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.empty(0, kind)
