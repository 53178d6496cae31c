"""The lock on scores, `evaluation` in `lock.json`: they are compared only where what decides them is the same.

The rule: scores of one task stand side by side only if its requests, documents, code, metric and number of items, the
tokenizer and an applied chat template are the same, by hash. A run without the block compares none of it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from aftermix.checkpoints.model_files import find_tokenizer_folder, read_tokenizer
from aftermix.checkpoints.pool import ModelPool
from aftermix.errors import SearchError
from aftermix.evaluation.documents.canonical import encode_document
from aftermix.evaluation.fingerprints import hash_texts
from aftermix.evaluation.items import SPLITS
from aftermix.evaluation.suites.contract import FunctionIdentity
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.runs.input_records import (
    LOCK_FILE,
    EvaluationLockRecord,
    FunctionLockRecord,
    LockedTaskRecord,
    LockRecord,
)
from aftermix.runs.json_record import read_record
from aftermix.search.objective import ObjectiveSet

FIELDS = {
    "metric": "metric",
    "documents": "documents",
    "requests": "requests or scoring code",
    "items": "number of items",
}
"""Words for the fields of a task's record; the first that differs is told."""
NOT_MEASURED = "the run has not measured it"


def build_evaluation_lock(
    pool: ModelPool, evaluator: ModelEvaluator, *, threads: int | None = None
) -> EvaluationLockRecord:
    """`evaluation` of `lock.json`: hashes of all tasks, of the tokenizer and of its chat template, and the threads."""
    engine, suite = evaluator.engine, evaluator.suite
    found, metrics = suite.fingerprint_tasks(engine.lm), suite.name_metrics()
    tasks = {
        name: LockedTaskRecord(
            requests=task.requests,
            documents=task.documents,
            metric=metrics[name],
            items=len({item for split in SPLITS for item in suite.tasks[name].of(split)}),
        )
        for name, task in found.items()
    }

    files = read_tokenizer(find_tokenizer_folder(pool))
    template = getattr(engine.lm.tokenizer, "chat_template", None)
    record = EvaluationLockRecord(
        tasks=tasks,
        tokenizer=hash_texts(part for name in sorted(files) for part in (name.encode(), files[name])),
        chat_template=hash_texts([encode_document(template)]) if template else None,
    )
    own = suite.function
    function = FunctionLockRecord(name=own.name, files=dict(own.files)) if own is not None else None
    known = {"threads": threads, "function": function}
    return record.model_copy(update={key: value for key, value in known.items() if value is not None})


def is_hashed(run: Path) -> bool:
    """Tell whether the run in `run` has recorded what decides a score; those of earlier versions have not."""
    lock = read_record(run / LOCK_FILE, LockRecord)
    return lock is not None and lock.evaluation is not None


def read_threads(run: Path) -> int:
    """CPU threads that the run in `run` began with; all cores where it recorded none."""
    lock = read_record(run / LOCK_FILE, LockRecord)
    recorded = lock.evaluation.threads if lock is not None and lock.evaluation is not None else None
    return recorded or torch.get_num_threads()


def refuse_other_function(
    run: Path, now: FunctionIdentity | FunctionLockRecord | None, *, partly: bool = False
) -> None:
    """Raise :class:`SearchError` unless the user's own scorer is, by hash, that with which the run in `run` began.

    With `partly`, `now` may lack files, which are those that it imports.
    """
    evaluation = LockRecord.read(run / LOCK_FILE).evaluation
    stored = evaluation.function if evaluation is not None else None
    if stored is None and now is None:
        return

    remedy = "Restore it, or start a new run in another folder: its scores are of that function."
    if stored is None or now is None or stored.name != now.name:
        names = [side.name if side is not None else "lm-eval's tasks" for side in (stored, now)]
        raise SearchError(str(run), f"expected scores by {names[0]}, found {names[1]}", remedy)
    theirs, ours = (_list_files(side.name, side.files) for side in (stored, now))
    for name in sorted(ours if partly else {*theirs, *ours}):
        file = (ours.get(name) or theirs[name])[0]
        before, after = (side[name][1] if name in side else None for side in (theirs, ours))
        if before != after:
            shown = [_shorten(side) if side is not None else "no such file" for side in (before, after)]
            found = f"expected the content that scores of {run} were measured with ({shown[0]}), found {shown[1]}"
            raise SearchError(file, found, remedy)


def _list_files(function: str, files: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Path and hash of each file by the way there from the function's own, which a project that moves keeps."""
    home = next((Path(path).parent for path in files if Path(path).name == function.partition(":")[0]), None)
    if home is None:
        return {path: (path, digest) for path, digest in files.items()}
    return {os.path.relpath(path, home): (path, digest) for path, digest in files.items()}


def refuse_other_scores(run: Path, now: EvaluationLockRecord, *, chat: bool) -> None:
    """Raise :class:`SearchError` unless what decides a score is as when the run in `run` began; the task is named."""
    stored = LockRecord.read(run / LOCK_FILE).evaluation
    if stored is None:
        return

    refuse_other_function(run, now.function)
    remedy = "Restore its YAML, data and code, or start a new run in another folder."
    _refuse_other_texts(run, stored, now, chat=chat, remedy=remedy)
    for name, theirs in stored.tasks.items():
        difference = _describe_difference(theirs, now.tasks[name])
        if difference is not None:
            found = f"has changed since its scores were measured: {difference}"
            raise SearchError(f"{run}: task '{name}'", found, remedy)


def find_other_tasks(source: Path, now: EvaluationLockRecord, *, chat: bool) -> dict[str, str]:
    """Task -> how it differs from that of the run in `source`, for every task of `now` whose stored scores do not hold.

    A task that the run has not measured is one of them; a run without hashes tells nothing of either. Raises
    :class:`SearchError` for another tokenizer or chat template, with which no score holds.
    """
    stored = LockRecord.read(source / LOCK_FILE).evaluation
    if stored is None:
        return {}

    remedy = "Restore it, or measure anew without --from."
    _refuse_other_texts(source, stored, now, chat=chat, remedy=remedy)
    differences = {
        name: _describe_difference(stored.tasks[name], task) if name in stored.tasks else NOT_MEASURED
        for name, task in now.tasks.items()
    }
    return {name: text for name, text in differences.items() if text is not None}


def describe_left_out(source: Path, others: Mapping[str, str], objectives: ObjectiveSet) -> str:
    """One line on what is not taken from the run in `source`."""
    needed = [task for task in others if task in list_needed_tasks(objectives)]
    differences = "; ".join(f"'{name}': {text}" for name, text in others.items())
    taken = f"and no trial: the objective needs '{needed[0]}'" if needed else "the trials are taken without them"
    return f"--from {source}: scores of another task are left out ({differences}), {taken}"


def list_needed_tasks(objectives: ObjectiveSet) -> Collection[str]:
    """Tasks without whose scores a trial has no objective, or may break a floor."""
    return {task for goal in objectives.goals for task in (*goal.weights, *goal.floors)}


def _refuse_other_texts(
    run: Path, stored: EvaluationLockRecord, now: EvaluationLockRecord, *, chat: bool, remedy: str
) -> None:
    for field, theirs, ours in (
        ("tokenizer", stored.tokenizer, now.tokenizer),
        ("chat template", stored.chat_template if chat else None, now.chat_template if chat else None),
    ):
        if theirs != ours:
            found = f"expected the {field} that scores were measured with ({_shorten(theirs)}), found {_shorten(ours)}"
            raise SearchError(str(run), found, remedy)


def _describe_difference(theirs: LockedTaskRecord, ours: LockedTaskRecord) -> str | None:
    for field, words in FIELDS.items():
        before, after = getattr(theirs, field), getattr(ours, field)
        if before != after:
            return f"expected {words} {_shorten(before)}, found {_shorten(after)}"
    return None


def _shorten(value: object) -> str:
    """A hash by its first digits."""
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text
