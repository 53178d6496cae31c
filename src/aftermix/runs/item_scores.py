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


class WeightedScores(list[float | None]):
    """Item scores that count by weights, as bits per byte do by the bytes of their documents: a list that knows them.

    The score is `sum_i weight_i score_i / sum_i weight_i` over the items that have a value; others have the weight 0.
    """

    def __init__(self, scores: Iterable[float | None], weights: Iterable[float]) -> None:
        super().__init__(scores)
        self.weights = tuple(
            0.0 if score is None else float(weight) for score, weight in zip(self, weights, strict=True)
        )
        if any(score is not None and not weight > 0 for score, weight in zip(self, self.weights, strict=True)):
            raise ValueError("an item that has a score has no weight above 0")


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
    weights: tuple[float, ...] | None = None
    """Weights of the items; None where they count alike."""

    @property
    def valued(self) -> list[float]:
        """The scores of the items that have one."""
        return [score for score in self.scores if score is not None]

    @property
    def valued_weights(self) -> list[float] | None:
        """Weights of the items that have a score; None where they count alike."""
        if self.weights is None:
            return None
        return [weight for score, weight in zip(self.scores, self.weights, strict=True) if score is not None]

    @property
    def mean(self) -> float:
        """The mean of the scores, by the weights where there are any."""
        return fmean(self.valued, self.valued_weights)


def split_leaves(scores: OptionalScores) -> list[LeafScores]:
    """The leaves of `scores`; a plain list is one, and so is one with weights of its items."""
    if isinstance(scores, WeightedScores):
        return [LeafScores(tuple(scores), 1.0 if _has_value(scores) else 0.0, scores.weights)]
    leaves = scores.leaves if isinstance(scores, GroupScores) else (LeafShare(len(scores), 1.0),)
    parts, start = [], 0
    for leaf in leaves:
        parts.append((tuple(scores[start : start + leaf.items]), leaf.weight))
        start += leaf.items

    total = math.fsum(weight for part, weight in parts if _has_value(part))
    return [LeafScores(part, weight / total if _has_value(part) else 0.0) for part, weight in parts]


def average(scores: OptionalScores) -> float:
    """The score of a task: the mean over its items that have a value, of a group the weighted mean over its leaves.

    >>> average([1.0, None, 0.0, None]), average(WeightedScores([-1.0, -0.5], [100, 300]))
    (0.5, -0.625)
    >>> average(GroupScores([1.0, 1.0, 1.0, 0.0, None], [LeafShare(3, 1.0), LeafShare(2, 1.0)]))
    0.5
    """
    leaves = [leaf for leaf in split_leaves(scores) if leaf.share]
    if len(leaves) == 1:
        return leaves[0].mean
    return math.fsum(leaf.share * leaf.mean for leaf in leaves)


def count_values(scores: OptionalScores) -> int:
    """The number of items that have a value."""
    return sum(score is not None for score in scores)


def complete_scores(scores: OptionalScores) -> list[float]:
    """One number for every item whose plain mean is the task's score, and varies as it does when items are drawn anew.

    Complete scores without leaves are returned as they are. Else an item counts `m + N s_l (x - m_l) / n_l` for the
    score `m`, `N` items, and its leaf's share `s_l`, mean `m_l` and `n_l` items with values (the influence of the item
    on a ratio of sums); one without a value counts `m`. Where items have weights, `w_i / sum w` stands for `1 / n_l`.

    >>> complete_scores([1.0, None, 0.0, None])
    [1.5, 0.5, -0.5, 0.5]
    """
    if not isinstance(scores, GroupScores | WeightedScores) and count_values(scores) == len(scores):
        return [score for score in scores if score is not None]

    middle, total = average(scores), len(scores)
    completed = []
    for leaf in split_leaves(scores):
        mean = leaf.mean if leaf.share else 0.0
        factor = total * leaf.share / max(1, len(leaf.valued))
        weights = leaf.weights or (1.0,) * len(leaf.scores)
        unit = math.fsum(leaf.valued_weights or ()) / max(1, len(leaf.valued)) if leaf.weights is not None else 1.0
        completed += [
            middle if score is None else middle + factor * (weight / unit) * (score - mean)
            for score, weight in zip(leaf.scores, weights, strict=True)
        ]
    return completed


def subtract_scores(ours: OptionalScores, theirs: OptionalScores) -> list[float | None]:
    """Ours minus theirs by item, whose score is the difference of the two scores. Both are of the same items.

    Where an item has a value on one side alone, the sides are completed first.
    """
    if isinstance(ours, WholeScore) and isinstance(theirs, WholeScore):
        return WholeScore(average(ours) - average(theirs))
    same_weights = all(getattr(ours, key, None) == getattr(theirs, key, None) for key in ("leaves", "weights"))
    if not same_weights or any((mine is None) != (other is None) for mine, other in zip(ours, theirs, strict=True)):
        pairs = zip(complete_scores(ours), complete_scores(theirs), strict=True)
        return [mine - other for mine, other in pairs]

    differences = [
        None if mine is None or other is None else mine - other for mine, other in zip(ours, theirs, strict=True)
    ]
    return replace_scores(ours, differences)


def replace_scores(of: OptionalScores, scores: Iterable[float | None]) -> list[float | None]:
    """Other scores of the items of `of`, which count as there."""
    if isinstance(of, GroupScores):
        return GroupScores(scores, of.leaves)
    if isinstance(of, WeightedScores):
        return WeightedScores(scores, of.weights)
    return list(scores)


class GroupScoresRecord(BaseModel):
    """A group in a file of item scores: the scores, and `[items, weight]` of each leaf."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    scores: list[Finite | None]
    leaves: list[tuple[Annotated[int, Field(ge=0)], Finite]]


class WeightedScoresRecord(BaseModel):
    """A task whose items count by weights in a file of item scores."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    scores: list[Finite | None]
    weights: list[Annotated[Finite, Field(ge=0)]]


class WholeScoreRecord(BaseModel):
    """A task that was scored whole in a file of item scores."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    whole: Finite


def _find_tag(stored: Any) -> str:
    if isinstance(stored, list):
        return "scores"
    held = stored.keys() if isinstance(stored, dict) else type(stored).model_fields
    return "whole" if "whole" in held else "weighted" if "weights" in held else "group"


ScoresRecords = GroupScoresRecord | WeightedScoresRecord | WholeScoreRecord
StoredScores = Annotated[
    Annotated[list[Finite | None], Tag("scores")]
    | Annotated[GroupScoresRecord, Tag("group")]
    | Annotated[WeightedScoresRecord, Tag("weighted")]
    | Annotated[WholeScoreRecord, Tag("whole")],
    Discriminator(_find_tag),
]
"""Item scores of one task in a file."""


def dump_scores(scores: OptionalScores) -> list[float | None] | ScoresRecords:
    """The scores of one task as a file holds them: a list, or a record of a group, of weights or of a whole task."""
    if isinstance(scores, WholeScore):
        return WholeScoreRecord(whole=average(scores))
    if isinstance(scores, WeightedScores):
        return WeightedScoresRecord(scores=list(scores), weights=list(scores.weights))
    if not isinstance(scores, GroupScores):
        return list(scores)
    return GroupScoresRecord(scores=list(scores), leaves=[(leaf.items, leaf.weight) for leaf in scores.leaves])


def parse_scores(stored: list[float | None] | ScoresRecords) -> list[float | None]:
    """Inverse of :func:`dump_scores`. Raises `ValueError` for leaves or weights that are not those of the scores."""
    if isinstance(stored, WholeScoreRecord):
        return WholeScore(stored.whole)
    if isinstance(stored, WeightedScoresRecord):
        return WeightedScores(stored.scores, stored.weights)
    if isinstance(stored, list):
        return stored
    return GroupScores(stored.scores, [LeafShare(items, weight) for items, weight in stored.leaves])


def _has_value(part: OptionalScores) -> bool:
    return any(score is not None for score in part)
