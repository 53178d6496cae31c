"""Scores of the items of a task, some of which may have none, and the mean that is the task's score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from aftermix.runs.json_record import Finite

OptionalScores = Sequence[float | None]
"""Scores of items in the order of the split's item ids; None for an item that has no value of the metric."""


@dataclass(frozen=True)
class LeafShare:
    """A leaf task of a group: its number of items, which follow one another, and its weight in the group's score."""

    items: int
    weight: float


class GroupScores(list[float | None]):
    """Item scores of a group whose leaves do not count by their numbers of items: a list that knows its leaves.

    The score is `sum_l weight_l mean_l / sum_l weight_l` over the leaves in which an item has a value.
    """

    def __init__(self, scores: Iterable[float | None], leaves: Iterable[LeafShare]) -> None:
        super().__init__(scores)
        self.leaves = tuple(leaves)
        if sum(leaf.items for leaf in self.leaves) != len(self):
            raise ValueError(f"the leaves have {sum(leaf.items for leaf in self.leaves)} items, not {len(self)}")


class WholeScore(list[float | None]):
    """The score of a task that was measured whole: a list of that one number, from which no interval follows."""

    def __init__(self, score: float) -> None:
        super().__init__([score])


def is_whole(items: Mapping[str, OptionalScores]) -> bool:
    """True if some task has a score and no items, so that what is computed of all has no interval."""
    return any(isinstance(scores, WholeScore) for scores in items.values())


@dataclass(frozen=True)
class LeafScores:
    """Item scores of one leaf, and its share in the score of the task; all shares sum to 1, 0 without any value."""

    scores: tuple[float | None, ...]
    share: float

    @property
    def valued(self) -> list[float]:
        """The scores of the items that have one."""
        return [score for score in self.scores if score is not None]


def split_leaves(scores: OptionalScores) -> list[LeafScores]:
    """The leaves of `scores`; a plain list is one."""
    leaves = scores.leaves if isinstance(scores, GroupScores) else (LeafShare(len(scores), 1.0),)
    parts, start = [], 0
    for leaf in leaves:
        parts.append((tuple(scores[start : start + leaf.items]), leaf.weight))
        start += leaf.items

    total = math.fsum(weight for part, weight in parts if _has_value(part))
    return [LeafScores(part, weight / total if _has_value(part) else 0.0) for part, weight in parts]


def average(scores: OptionalScores) -> float:
    """The score of a task: the mean over its items that have a value, of a group the weighted mean over its leaves.

    >>> average([1.0, None, 0.0, None])
    0.5
    >>> average(GroupScores([1.0, 1.0, 1.0, 0.0, None], [LeafShare(3, 1.0), LeafShare(2, 1.0)]))
    0.5
    """
    leaves = [leaf for leaf in split_leaves(scores) if leaf.share]
    if len(leaves) == 1:
        return fmean(leaves[0].valued)
    return math.fsum(leaf.share * fmean(leaf.valued) for leaf in leaves)


def count_values(scores: OptionalScores) -> int:
    """The number of items that have a value."""
    return sum(score is not None for score in scores)


def complete_scores(scores: OptionalScores) -> list[float]:
    """One number for every item whose plain mean is the task's score, and varies as it does when items are drawn anew.

    Complete scores without leaves are returned as they are. Else an item counts `m + N s_l (x - m_l) / n_l` for the
    score `m`, `N` items, and its leaf's share `s_l`, mean `m_l` and `n_l` items with values (the influence of the item
    on a ratio of sums); one without a value counts `m`.

    >>> complete_scores([1.0, None, 0.0, None])
    [1.5, 0.5, -0.5, 0.5]
    """
    if not isinstance(scores, GroupScores) and count_values(scores) == len(scores):
        return [score for score in scores if score is not None]

    middle, total = average(scores), len(scores)
    completed = []
    for leaf in split_leaves(scores):
        mean = fmean(leaf.valued) if leaf.share else 0.0
        factor = total * leaf.share / max(1, len(leaf.valued))
        completed += [middle if score is None else middle + factor * (score - mean) for score in leaf.scores]
    return completed


def subtract_scores(ours: OptionalScores, theirs: OptionalScores) -> list[float | None]:
    """Ours minus theirs by item, whose score is the difference of the two scores. Both are of the same items.

    Where an item has a value on one side alone, the sides are completed first.
    """
    if isinstance(ours, WholeScore) and isinstance(theirs, WholeScore):
        return WholeScore(average(ours) - average(theirs))
    same_leaves = getattr(ours, "leaves", None) == getattr(theirs, "leaves", None)
    if not same_leaves or any((mine is None) != (other is None) for mine, other in zip(ours, theirs, strict=True)):
        pairs = zip(complete_scores(ours), complete_scores(theirs), strict=True)
        return [mine - other for mine, other in pairs]

    differences = [
        None if mine is None or other is None else mine - other for mine, other in zip(ours, theirs, strict=True)
    ]
    return GroupScores(differences, ours.leaves) if isinstance(ours, GroupScores) else differences


class GroupScoresRecord(BaseModel):
    """A group in a file of item scores: the scores, and `[items, weight]` of each leaf."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    scores: list[Finite | None]
    leaves: list[tuple[Annotated[int, Field(ge=0)], Finite]]


class WholeScoreRecord(BaseModel):
    """A task that was scored whole in a file of item scores."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    whole: Finite


def _find_tag(stored: Any) -> str:
    if isinstance(stored, list):
        return "scores"
    is_one = isinstance(stored, WholeScoreRecord) or (isinstance(stored, dict) and "whole" in stored)
    return "whole" if is_one else "group"


StoredScores = Annotated[
    Annotated[list[Finite | None], Tag("scores")]
    | Annotated[GroupScoresRecord, Tag("group")]
    | Annotated[WholeScoreRecord, Tag("whole")],
    Discriminator(_find_tag),
]
"""Item scores of one task in a file."""


def dump_scores(scores: OptionalScores) -> list[float | None] | GroupScoresRecord | WholeScoreRecord:
    """The scores of one task as a file holds them: a list, or a record of a group or of a whole task."""
    if isinstance(scores, WholeScore):
        return WholeScoreRecord(whole=average(scores))
    if not isinstance(scores, GroupScores):
        return list(scores)
    return GroupScoresRecord(scores=list(scores), leaves=[(leaf.items, leaf.weight) for leaf in scores.leaves])


def parse_scores(stored: list[float | None] | GroupScoresRecord | WholeScoreRecord) -> list[float | None]:
    """Inverse of :func:`dump_scores`. Raises `ValueError` for leaves that are not those of the scores."""
    if isinstance(stored, WholeScoreRecord):
        return WholeScore(stored.whole)
    if isinstance(stored, list):
        return stored
    return GroupScores(stored.scores, [LeafShare(items, weight) for items, weight in stored.leaves])


def _has_value(part: OptionalScores) -> bool:
    return any(score is not None for score in part)
