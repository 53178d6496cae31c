"""Measurements of one candidate on parts of a split: `items/SPLIT/NNNNN.rounds/`, until all parts are there.

Each round's file is one of item scores with its answers beside it, of all items: those of other rounds have no score,
and NaN for a log-likelihood. A candidate with all rounds has files as any other, and no such folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.runs.answers.candidate import KeptAnswers, TaskAnswers
from aftermix.runs.item_scores import GroupScores, LeafShare, OptionalScores, WeightedScores
from aftermix.runs.trials import ItemScores


def locate_round(items: Path, number: int) -> Path:
    """The file of item scores of one round, from 1, of the candidate whose whole scores are the file `items`.

    >>> locate_round(Path("RUN/items/select/00012.json"), 2).as_posix()
    'RUN/items/select/00012.rounds/2.json'
    """
    return items.with_suffix(".rounds") / f"{number}.json"


def discard_rounds(items: Path) -> None:
    """Remove the rounds of a candidate whose whole scores are written down."""
    folder = items.with_suffix(".rounds")
    if folder.is_dir():
        shutil.rmtree(folder)


def join_scores(rounds: Sequence[ItemScores]) -> ItemScores:
    """The scores of all items that some round has; rounds share no item."""
    return {task: _join_task([each[task] for each in rounds]) for task in rounds[0]}


def join_answers(rounds: Sequence[KeptAnswers]) -> KeptAnswers:
    """The answers to all requests that some round has; generated texts round after round."""
    return {
        task: TaskAnswers(
            loglikelihood=_fill([each[task].loglikelihood for each in rounds]),
            greedy=np.maximum.reduce([each[task].greedy for each in rounds]),
            generated=tuple(text for each in rounds for text in each[task].generated),
        )
        for task in rounds[0]
    }


def _join_task(rounds: Sequence[OptionalScores]) -> list[float | None]:
    joined = [next((score for score in scores if score is not None), None) for scores in zip(*rounds, strict=True)]
    counted = [scores.weights for scores in rounds if isinstance(scores, WeightedScores)]
    if counted:
        return WeightedScores(joined, map(max, zip(*counted, strict=True)))
    weighted = [scores.leaves for scores in rounds if isinstance(scores, GroupScores)]
    if not weighted:
        return joined
    leaves = [LeafShare(each[0].items, sum(leaf.weight for leaf in each)) for each in zip(*weighted, strict=True)]
    return GroupScores(joined, leaves)


def _fill(rounds: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    filled = rounds[0].copy()
    for values in rounds[1:]:
        filled = np.where(np.isnan(filled), values, filled)
    return filled
