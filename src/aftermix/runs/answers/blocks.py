"""Blocks of an evaluation that is under way: `items/SPLIT/NNNNN.partial/`, from which a stopped one goes on.

Each file holds the blocks that ended since the file before it, under what they are of: the candidate, the engine, and
by its hash the plan, which is a function of the requests. A file that is damaged or of something else is no loss: its
blocks are computed again, to the same bits, and a line says so.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aftermix import progress
from aftermix.files import write_atomically

LEAST_SECONDS = 30.0
"""Wall time between two files: an evaluation that is done before writes none."""
Arrays = Mapping[str, NDArray[Any]]
MakeArrays = Callable[[], Arrays]
"""Gives the arrays of a block; called where a file is written, and not before."""
PlanHash = Callable[[], str]
"""Gives the hash of a plan; asked for where a file is read or written, and not before."""


@dataclass
class BlockJournal:
    """Finished blocks of the evaluation of one candidate on one split."""

    items: Path
    """File of the item scores that they lie beside."""
    candidate: str
    _last: float = field(default_factory=perf_counter)
    _waiting: list[tuple[PlanHash, int, MakeArrays]] = field(default_factory=list)
    _found: dict[str, dict[str, NDArray[Any]]] | None = None
    """By `PLAN/BLOCK`; None until the first question."""
    _engine: str = ""

    @property
    def folder(self) -> Path:
        """Folder of the blocks."""
        return _locate_folder(self.items)

    def find(self, plan: PlanHash, number: int, *, engine: str) -> Arrays | None:
        """Arrays of a block that ended before the evaluation was stopped; None where it is to be computed."""
        if self._found is None:
            self._found = self._read_files(engine) if self.folder.is_dir() else {}
        return self._found.pop(f"{plan()}/{number}", None) if self._found else None

    def keep(self, plan: PlanHash, number: int, arrays: MakeArrays, *, engine: str) -> None:
        """Keep a block that has ended. It is written now if the last file is old enough, or else with a later one."""
        self._waiting.append((plan, number, arrays))
        self._engine = engine
        if perf_counter() - self._last >= LEAST_SECONDS:
            self.write_waiting()

    def write_waiting(self) -> None:
        """Write the blocks that ended since the last file, if there are any."""
        if not self._waiting:
            return
        tensors = {
            f"{of_plan()}/{block}/{name}": array
            for of_plan, block, held in self._waiting
            for name, array in held().items()
        }
        place = {"candidate": self.candidate, "engine": self._engine, "sha256": _hash_arrays(tensors)}
        taken = [int(path.stem) for path in self.folder.glob("*.safetensors")]
        path = self.folder / f"{max(taken, default=-1) + 1:05d}.safetensors"
        write_atomically(path, save(tensors, metadata=place))
        self._waiting.clear()
        self._last = perf_counter()

    def tell_unused(self) -> None:
        """Say of blocks that no plan asked for that they were."""
        if self._found:
            progress.say(f"{self.folder}: {len(self._found)} blocks are of other requests than these: computed anew")

    def _read_files(self, engine: str) -> dict[str, dict[str, NDArray[Any]]]:
        blocks: dict[str, dict[str, NDArray[Any]]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                place, arrays = _read_file(path)
                self._refuse_foreign(place, engine)
            except _UnusableBlocksError as error:
                progress.say(f"{path}: {error}: computed anew")
                path.unlink()
                continue
            for name, array in arrays.items():
                block, _, part = name.rpartition("/")
                blocks.setdefault(block, {})[part] = array

        if blocks:
            progress.say(f"{self.folder}: {len(blocks)} blocks of an evaluation that was stopped are taken up")
        return blocks

    def _refuse_foreign(self, place: Mapping[str, str], engine: str) -> None:
        for noun, ours in (("candidate", self.candidate), ("engine", engine)):
            if place.get(noun) != ours:
                raise _UnusableBlocksError(f"blocks of another {noun} (expected {ours}, found {place.get(noun)})")


class _UnusableBlocksError(Exception):
    """A file whose blocks are computed anew, and why."""


_journals: ContextVar[BlockJournal | None] = ContextVar("block_journals", default=None)


@contextmanager
def journal_blocks(items: Path, candidate: str, *, until_end: bool = False) -> Iterator[None]:
    """Let the evaluation in this block, whose item scores will be the file `items`, keep its blocks beside them.

    `candidate` says in words whose answers they are. Blocks that a stopped evaluation left are taken up. They stay
    until :func:`discard_blocks`. With `until_end` the last ones are written, too: the scores are, but not at once.
    """
    journal = BlockJournal(items, candidate)
    token = _journals.set(journal)
    try:
        yield
        journal.tell_unused()
        if until_end:
            journal.write_waiting()
    finally:
        _journals.reset(token)


def find_journal() -> BlockJournal | None:
    """The journal of the evaluation that is under way; None where none is kept."""
    return _journals.get()


def discard_blocks(items: Path) -> None:
    """Remove the blocks of an evaluation whose scores are written down."""
    folder = _locate_folder(items)
    if folder.is_dir():
        shutil.rmtree(folder)


def _locate_folder(items: Path) -> Path:
    return items.with_suffix(".partial")


def _read_file(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """The file's words on its blocks, and their arrays."""
    try:
        content = path.read_bytes()
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _UnusableBlocksError(f"a damaged file of blocks ({' '.join(str(error).split())})") from error

    place = header.get("__metadata__", {})
    if place.get("sha256") != _hash_arrays(arrays):
        raise _UnusableBlocksError("a damaged file of blocks (its content is not what its hash says)")
    return place, arrays


def _hash_arrays(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
