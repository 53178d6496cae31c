"""Scores of a run's winner by document: what `aftermix compare` reads of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from aftermix.config import Config
from aftermix.errors import EvaluationError
from aftermix.evaluation.samples.scored_documents import ScoredDocument, ScoredTask, hash_as_samples
from aftermix.jobs.mixture.baselines import build_weights_key
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.runs.input_records import LOCK_FILE, SPLIT_FILE, LockRecord, SplitRecord, TaskSplitRecord
from aftermix.runs.item_scores import OptionalScores, WholeScore, split_leaves
from aftermix.runs.journal import locate_items, read_items_file
from aftermix.runs.reader import RunContents, read_run
from aftermix.runs.records import BestRecord

HeldOut = Literal["select", "test"]
"""Items that did not search."""
SPLITS = ("search", "select", "test")
FindDocument = Callable[[str], Any]
"""Item -> its document."""


def read_run_scores(path: Path, split: HeldOut) -> dict[str, ScoredTask]:
    """Task -> the scores of the winner of the run in `path` on the items of `split`, by the metric that counts.

    Documents are those of the tasks that its `config.yaml` names, as they lie on disk: they must be the run's, by the
    hash in its lock. Raises :class:`AftermixError` for a run that has no winner or no scores of it, and for documents
    that cannot be read or have changed.
    """
    run = read_run(path)
    best = run.best
    if best is None or best.winner is None:
        raise EvaluationError(str(path), "has no winner yet", f"Finish it: `aftermix search --resume {path}`.")
    items = read_items_file(locate_winner_items(run, split), noun=f"the {split} item scores of the winner")
    splits = SplitRecord.read(path / SPLIT_FILE).tasks
    find = _open_documents(run.config, splits, run)

    found: dict[str, ScoredTask] = {}
    for task, scores in items.items():
        metric = best.metrics[task]
        if isinstance(scores, WholeScore):
            found[task] = ScoredTask({}, (metric,))
            continue
        names = getattr(splits[task], split)
        documents = [_build_document(find(name), value, weight) for name, value, weight in _weigh(names, scores)]
        found[task] = ScoredTask({metric: documents})
    return found


def _build_document(document: Any, value: float | None, weight: float) -> ScoredDocument:
    fields = document if isinstance(document, dict) else {}
    return ScoredDocument(hash_as_samples(document), value, weight, fields)


def _weigh(names: tuple[str, ...], scores: OptionalScores) -> list[tuple[str, float | None, float]]:
    """(item, score, weight of the item in the task's score), the weights 1 where all items count alike."""
    weighed: list[float] = []
    for leaf in split_leaves(scores):
        valued = leaf.valued_weights or [1.0] * len(leaf.valued)
        unit = leaf.share * len(scores) / (sum(valued) or 1.0)
        every = leaf.weights or tuple(float(score is not None) for score in leaf.scores)
        weighed += [weight * unit for weight in every]
    return list(zip(names, scores, weighed, strict=True))


def locate_winner_items(run: RunContents, split: HeldOut) -> Path:
    """The file of the item scores of a finished run's winner."""
    best = run.best
    if isinstance(best, BestRecord):
        if split == "select":
            return locate_items(run.folder, split, best.winner.trial)
        return ScoreCache(run.folder, ()).locate(f"winner trial {best.winner.trial}", split)
    assert best is not None  # noqa: S101 - the caller looked; for the type checker
    return ScoreCache(run.folder, ()).locate(build_weights_key(best.weights), split)


def _open_documents(config: Config, splits: Mapping[str, TaskSplitRecord], run: RunContents) -> FindDocument:
    evaluate = config.evaluate
    assert evaluate is not None  # noqa: S101 - every run has been evaluated
    if evaluate.function is not None:  # nobody else sees what the user's own function asks
        return lambda item: {"item": item}

    from aftermix.evaluation.documents.canonical import digest_documents
    from aftermix.evaluation.loading import load_tasks
    from aftermix.jobs.evaluate.opening import read_task_texts

    leaves = {
        name: leaf
        for own in load_tasks(evaluate, texts=read_task_texts(evaluate)).values()
        for name, leaf in own.items()
    }

    def find(item: str) -> Any:
        leaf, _, number = item.rpartition("/")
        documents = leaves[leaf].task_docs if leaf in leaves else ()
        if not int(number) < len(documents):
            found = f"expected its item '{item}', found {len(documents)} documents of '{leaf}'"
            raise EvaluationError(str(run.folder), found, "Restore the data that the run was made on.")
        return documents[int(number)]

    lock = LockRecord.read(run.folder / LOCK_FILE).evaluation if run.lock else None
    for task, locked in (lock.tasks if lock else {}).items():
        items = [item for split in SPLITS for item in getattr(splits[task], split)]
        if locked.documents != digest_documents(map(find, items)):
            found = f"its documents of task '{task}' are not those that lie there now"
            raise EvaluationError(str(run.folder), found, "Restore the data that the run was made on.")
    return find
