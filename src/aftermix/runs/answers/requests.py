"""`items/requests.json` and `items/requests.safetensors`: what the kept log-likelihoods of a run are of.

R requests of a split, item after item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, RootModel

from aftermix.config import Split
from aftermix.errors import AftermixError
from aftermix.runs.answers.arrays import RESTORE, ExpectedArray, read_arrays, write_arrays
from aftermix.runs.json_record import JsonRecord, RunRecord

REQUESTS_FILE, ARRAYS_FILE = "items/requests.json", "items/requests.safetensors"
AnswerKind = Literal["choice", "reference", "none"]
"""`choice`: the metric that counts is right where the right one of an item's requests has the greatest log-likelihood,
divided by its length; `reference`: one request an item, a text that should be likely; `none`: neither."""
LengthUnit = Literal["characters", "bytes", "tokens"]


class RequestCountsRecord(RunRecord):
    """Numbers of items and of requests of one task in one split."""

    items: Annotated[int, Field(ge=0)]
    requests: Annotated[int, Field(ge=0)]
    documents: Annotated[int, Field(ge=1)] = 1
    """Number of documents that the items are of; absent where each is of its own."""


class TaskRequestsRecord(RunRecord):
    """Requests of one task, in `requests.json`."""

    kind: AnswerKind
    metric: str
    """The metric that counts, as `name,filter`."""
    length: LengthUnit | None
    """The unit of the length by which that metric divides a log-likelihood; null where by none."""
    splits: dict[Split, RequestCountsRecord]


class RequestsRecord(JsonRecord, RootModel[dict[str, TaskRequestsRecord]]):
    """`items/requests.json`: requests by task."""


@dataclass(frozen=True, eq=False)
class SplitRequests:
    """Requests of one task in one split, in the order of the split's items and of each item's requests."""

    offsets: NDArray[np.int64]
    """(items + 1): the requests of item `i` are `offsets[i]:offsets[i + 1]`."""
    gold: NDArray[np.int32]
    """(items): index of the right choice within the item's requests, -1 where there is none or more than one."""
    bytes_R: NDArray[np.int32]
    """UTF-8 bytes of each continuation as `acc_bytes` counts them: without the blank that joins it to the prompt."""
    characters_R: NDArray[np.int32]
    """Characters of each continuation as `acc_norm` counts them."""
    documents: NDArray[np.int32] | None = None
    """(items): number of the document that each item is of, items of equal rows being of one; None where each is of
    its own, and in runs of earlier versions, which do not know."""

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.bytes_R)

    def __eq__(self, other: object) -> bool:
        """True for the same requests: what they are documents of decides no answer."""
        return isinstance(other, SplitRequests) and all(
            np.array_equal(mine, theirs) for mine, theirs in zip(self._list_arrays(), other._list_arrays(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def _list_arrays(self) -> tuple[NDArray[np.int64] | NDArray[np.int32], ...]:
        return self.offsets, self.gold, self.bytes_R, self.characters_R


@dataclass(frozen=True)
class TaskRequests:
    """Requests of one task by split; kind, metric and length as in :class:`TaskRequestsRecord`."""

    kind: AnswerKind
    metric: str
    length: LengthUnit | None
    splits: Mapping[Split, SplitRequests]

    @property
    def follows_likelihood(self) -> bool:
        """True if the score is read off the log-likelihoods: of choices, or of texts by the byte."""
        return self.kind == "choice" or (self.kind == "reference" and self.length is not None)


RequestTable = Mapping[str, TaskRequests]
"""Task -> its requests."""


def write_requests(run: Path, table: RequestTable) -> None:
    """Write both files; the one whose being there says that a run keeps answers is the last."""
    arrays: dict[str, NDArray[Any]] = {}
    for task, requests in table.items():
        for split, of_split in requests.splits.items():
            place = f"{split}/{task}"
            arrays[f"{place}/offsets"] = of_split.offsets
            arrays[f"{place}/gold"] = of_split.gold
            arrays[f"{place}/bytes"] = of_split.bytes_R
            arrays[f"{place}/characters"] = of_split.characters_R
            if of_split.documents is not None:
                arrays[f"{place}/documents"] = of_split.documents
    write_arrays(run / ARRAYS_FILE, arrays)

    record = {
        task: TaskRequestsRecord(
            kind=requests.kind,
            metric=requests.metric,
            length=requests.length,
            splits={split: _count_requests(of_split) for split, of_split in requests.splits.items()},
        )
        for task, requests in table.items()
    }
    RequestsRecord(record).write(run / REQUESTS_FILE)


def _count_requests(of_split: SplitRequests) -> RequestCountsRecord:
    documents = {} if of_split.documents is None else {"documents": int(of_split.documents.max()) + 1}
    return RequestCountsRecord(items=len(of_split.gold), requests=of_split.requests, **documents)


def read_request_files(run: Path) -> dict[str, TaskRequests]:
    """The requests of the run in `run`. Raises :class:`AftermixError` for a file that is missing or damaged."""
    record = RequestsRecord.read(run / REQUESTS_FILE).root
    expected: dict[str, ExpectedArray] = {}
    for task, entry in record.items():
        for split, counts in entry.splits.items():
            expected[f"{split}/{task}/offsets"] = ExpectedArray(np.int64, counts.items + 1)
            expected[f"{split}/{task}/gold"] = ExpectedArray(np.int32, counts.items)
            expected[f"{split}/{task}/bytes"] = ExpectedArray(np.int32, counts.requests)
            expected[f"{split}/{task}/characters"] = ExpectedArray(np.int32, counts.requests)
            if "documents" in counts.model_fields_set:
                expected[f"{split}/{task}/documents"] = ExpectedArray(np.int32, counts.items)

    path = run / ARRAYS_FILE
    arrays = read_arrays(path, expected, noun="the requests of a run")
    table = {}
    for task, entry in record.items():
        splits: dict[Split, SplitRequests] = {}
        for split in entry.splits:
            offsets, gold, sizes, lengths = (
                arrays[f"{split}/{task}/{part}"] for part in ("offsets", "gold", "bytes", "characters")
            )
            splits[split] = SplitRequests(offsets, gold, sizes, lengths, arrays.get(f"{split}/{task}/documents"))
            _refuse_broken(splits[split], where=f"{path}: {split}/{task}")
        table[task] = TaskRequests(entry.kind, entry.metric, entry.length, splits)
    return table


def _refuse_broken(requests: SplitRequests, *, where: str) -> None:
    """Refuse offsets that are no division of the requests, and choices that an item does not have."""
    sizes = np.diff(requests.offsets)
    ends = int(requests.offsets[0]), int(requests.offsets[-1])
    if ends != (0, requests.requests) or (sizes < 0).any():
        found = f"expected offsets that rise from 0 to {requests.requests}, found {ends[0]} to {ends[1]}"
        raise AftermixError(f"{where}/offsets", f"{found}, {int((sizes < 0).sum())} falling", RESTORE)

    documents = requests.documents
    if documents is not None and len(documents) and int(documents.min()) < 0:
        found = f"expected numbers of documents from 0, found {int(documents.min())}"
        raise AftermixError(f"{where}/documents", found, RESTORE)

    beyond = np.flatnonzero((requests.gold < -1) | (requests.gold >= sizes))
    if len(beyond):
        item = int(beyond[0])
        found = f"expected -1 or one of {int(sizes[item])} choices at item {item}, found {int(requests.gold[item])}"
        raise AftermixError(f"{where}/gold", found, RESTORE)
