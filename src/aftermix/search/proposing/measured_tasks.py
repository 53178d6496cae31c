"""The measurements of a run's trials as the response model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.config import Split
from aftermix.response.margins import ChoiceItems
from aftermix.response.measurements import ResponseKind, TaskMeasurements
from aftermix.runs import journal
from aftermix.runs.answers.reading import has_answers, read_loglikelihoods, read_requests
from aftermix.runs.answers.requests import SplitRequests, TaskRequests
from aftermix.runs.item_scores import OptionalScores, split_leaves
from aftermix.runs.trials import ItemScores, Trial

# N trials, R requests, I items


TrialPlace = tuple[Path, int]
"""Folder of a journal, and the number of a trial in it."""


def list_answered_trials(run: Path, trials: Sequence[Trial], tasks: Sequence[str]) -> list[Trial]:
    """The complete trials whose scores and log-likelihoods of all `tasks` are there."""
    return [
        trial
        for trial in trials
        if trial.is_complete and trial.scores.keys() >= set(tasks) and has_answers(run, "search", trial.number)
    ]


def read_measured_tasks(
    run: Path, trials: Sequence[Trial], tasks: Sequence[str], *, split: Split = "search"
) -> dict[str, TaskMeasurements]:
    """Task -> measurements at `trials`, which have answers on `split`.

    Raises :class:`AftermixError` for files that are missing or damaged.
    """
    return read_numbered_tasks(run, [trial.number for trial in trials], tasks, split=split)


def read_numbered_tasks(
    run: Path, numbers: Sequence[int], tasks: Sequence[str], *, split: Split = "search"
) -> dict[str, TaskMeasurements]:
    """As :func:`read_measured_tasks`, by the numbers of the trials."""
    return read_placed_tasks([(run, number) for number in numbers], tasks, split=split)


def read_placed_tasks(
    places: Sequence[TrialPlace], tasks: Sequence[str], *, split: Split = "search"
) -> dict[str, TaskMeasurements]:
    """As :func:`read_measured_tasks`, of trials in several journals of one run."""
    requests = read_requests(places[0][0])
    scores = [journal.read_items(folder, split, number) for folder, number in places]
    answers = [read_loglikelihoods(folder, split, number) for folder, number in places]
    return {
        task: build_measurements(
            requests[task], split, [items[task] for items in scores], np.stack([each[task] for each in answers])
        )
        for task in tasks
    }


def build_measurements(
    requests: TaskRequests, split: Split, scores: Sequence[OptionalScores], loglikelihood_NR: NDArray[np.float32]
) -> TaskMeasurements:
    """One task at N merges, by the kind of its requests.

    An item without a value, or without a finite log-likelihood at some merge, counts nowhere.
    """
    of_split = requests.splits[split]
    kind = _find_kind(requests, of_split)
    scores_NI = np.array([[0.0 if score is None else score for score in merge] for merge in scores], dtype=np.float32)
    shares_I = _compute_shares(scores[0])
    documents_I = _number_documents(of_split, len(shares_I))
    if kind == "score":
        return TaskMeasurements(kind, scores_NI, shares_I, documents_I)

    finite_R = np.isfinite(loglikelihood_NR).all(axis=0)
    finite_I = np.logical_and.reduceat(finite_R, of_split.offsets[:-1])
    shares_I = np.where(finite_I, shares_I, 0.0)
    likelihood_NR = np.where(finite_R, loglikelihood_NR, np.float32(0))
    if kind == "reference":  # a text counts by its log-likelihood a byte where its metric does
        likelihood_NR = (likelihood_NR / _read_lengths(requests, of_split)).astype(np.float32)
    items = ChoiceItems(of_split.offsets, of_split.gold.astype(np.int64), _read_lengths(requests, of_split))
    return TaskMeasurements(
        kind,
        scores_NI,
        shares_I / (shares_I.sum() or 1.0),
        documents_I,
        likelihood_NR,
        items if kind == "choice" else None,
    )


def _find_kind(requests: TaskRequests, of_split: SplitRequests) -> ResponseKind:
    """`score` where no log-likelihood stands for the metric: every item needs its requests, and a right one."""
    counts = np.diff(of_split.offsets)
    if requests.kind == "choice" and requests.length != "tokens" and len(counts):
        return "choice" if counts.min() >= 2 and of_split.gold.min() >= 0 else "score"
    if requests.kind == "reference" and len(counts) and counts.min() == counts.max() == 1:
        return "reference"
    return "score"


def _number_documents(of_split: SplitRequests, items: int) -> NDArray[np.int64]:
    """(I,) number of each item's document."""
    return np.arange(items) if of_split.documents is None else of_split.documents.astype(np.int64)


def _read_lengths(requests: TaskRequests, of_split: SplitRequests) -> NDArray[np.float64]:
    """(R,) what the metric divides by; an empty continuation counts as one character, so that nothing is infinite."""
    lengths = {"bytes": of_split.bytes_R, "characters": of_split.characters_R}.get(requests.length or "")
    return np.ones(of_split.requests) if lengths is None else np.maximum(lengths, 1).astype(np.float64)


def _compute_shares(scores: OptionalScores) -> NDArray[np.float64]:
    """(I,) share of each item in the task's score: equal within a leaf or by its weight, 0 for one without a value."""
    parts = []
    for leaf in split_leaves(scores):
        valued = np.array([score is not None for score in leaf.scores], dtype=np.float64)
        counted = valued if leaf.weights is None else valued * np.array(leaf.weights)
        parts.append(counted * leaf.share / (float(counted.sum()) or 1.0))
    return np.concatenate(parts) if parts else np.zeros(0)


def _sum_squares(
    shares_I: NDArray[np.float64], centred_I: NDArray[np.float64], documents_I: NDArray[np.int64] | None
) -> float:
    """`sum_g (sum_{i in g} p_i x_i)^2` over documents g."""
    if documents_I is None or len(np.unique(documents_I)) == len(documents_I):
        return float(shares_I**2 @ centred_I**2)
    return float((np.bincount(documents_I, shares_I * centred_I) ** 2).sum())


def compute_paired_error(
    ours: ItemScores,
    theirs: ItemScores,
    weights: Mapping[str, float],
    documents: Mapping[str, NDArray[np.int64]] | None = None,
) -> float:
    """Standard error of the difference of two merges' objectives over new documents, drawn within each task.

    `documents` numbers the document of each item by task; a task without an entry has one for each item.
    """
    variance = 0.0
    for task, weight in weights.items():
        shares_I = _compute_shares(ours[task])
        difference_I = np.array(
            [(mine or 0.0) - (other or 0.0) for mine, other in zip(ours[task], theirs[task], strict=True)]
        )
        centred_I = difference_I - difference_I @ shares_I
        variance += weight**2 * _sum_squares(shares_I, centred_I, (documents or {}).get(task))
    return float(np.sqrt(variance))
