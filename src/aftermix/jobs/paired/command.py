"""`aftermix compare`: the scores of two runs, or of lm-eval's samples, held against each other document by document."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aftermix.analysis.comparison.paired_test import PairedTest, run_paired_test
from aftermix.errors import EvaluationError
from aftermix.evaluation.samples.sample_files import read_sample_files
from aftermix.evaluation.samples.scored_documents import ScoredDocument, ScoredTask, ScoredTasks
from aftermix.jobs.paired.run_scores import HeldOut, read_run_scores
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.json_record import Finite, Interval, JsonRecord

SHOWN_NAMES = 8


class SideCounts(JsonRecord):
    """Documents of each side."""

    a: int
    b: int


class MetricComparison(JsonRecord):
    """One metric of one task on the documents that both sides have."""

    a: Finite
    b: Finite
    difference: Finite
    interval: Interval | None
    p: Finite | None
    documents: int
    clusters: int
    unmatched: SideCounts
    """Documents that the other side lacks."""
    without_value: SideCounts
    """Documents of both sides of which this side has no number."""


class TaskComparison(MetricComparison):
    """The metric that counts, and all."""

    metric: str
    metrics: dict[str, MetricComparison]
    prompts_differ: int
    """Documents that the two sides were asked with other prompts, as far as samples tell."""
    not_compared: tuple[str, ...]
    """Metrics of one side alone, or without a number for each document."""


class ComparisonRecord(JsonRecord):
    """Output of `aftermix compare --json`."""

    a: str
    b: str
    split: str | None
    """Items of runs that are compared; null where neither side is a run."""
    cluster: str | None
    tasks: dict[str, TaskComparison]
    only_a: tuple[str, ...]
    """Tasks that the other side lacks, or of which nothing could be matched."""
    only_b: tuple[str, ...]


@dataclass(frozen=True)
class _Copies:
    """One document of one side, perhaps asked several times."""

    values: tuple[float | None, ...]
    weight: float
    document: ScoredDocument
    """One of the copies."""

    @property
    def valued(self) -> list[float]:
        return [value for value in self.values if value is not None]


def compare_scores(a: Path, b: Path, *, cluster: str | None = None, split: HeldOut = "test") -> ComparisonRecord:
    """Hold `a` against `b`, each a run or samples of lm-eval, on the documents that both have.

    A document is known by the hash of its content. One that stands several times counts so many times as both sides
    have it, by the mean of its scores, as one cluster; with `cluster` documents of one value of that field are one.
    Raises :class:`EvaluationError` for what cannot be read, and where nothing matches.
    """
    sides = tuple(_read_side(path, split) for path in (a, b))
    common = [task for task in sides[0] if task in sides[1]]
    tasks: dict[str, TaskComparison] = {}
    for task in common:
        found = _compare_task(task, sides[0][task], sides[1][task], cluster)
        if found is not None:
            tasks[task] = found
    if not tasks:
        raise _explain_nothing(a, b, sides, common)

    only = [tuple(task for task in side if task not in tasks) for side in sides]
    is_run = any((path / CONFIG_FILE).is_file() for path in (a, b))
    return ComparisonRecord(
        a=str(a),
        b=str(b),
        split=split if is_run else None,
        cluster=cluster,
        tasks=tasks,
        only_a=only[0],
        only_b=only[1],
    )


def _read_side(path: Path, split: HeldOut) -> ScoredTasks:
    if not path.exists():
        raise EvaluationError(str(path), "there is no such file or folder", "Name a run, or samples of lm-eval.")
    return read_run_scores(path, split) if (path / CONFIG_FILE).is_file() else read_sample_files(path)


def _compare_task(task: str, ours: ScoredTask, theirs: ScoredTask, cluster: str | None) -> TaskComparison | None:
    """All metrics of both sides; the first of the side that has fewer counts. None where no document matches."""
    fewer = ours if len(ours.metrics) <= len(theirs.metrics) else theirs
    metrics: dict[str, MetricComparison] = {}
    for metric in fewer.metrics:
        if metric in ours.metrics and metric in theirs.metrics:
            found = _compare_metric(task, ours.metrics[metric], theirs.metrics[metric], cluster)
            if found is not None:
                metrics[metric] = found
    if not metrics:
        return None

    first = next(iter(metrics))
    named = dict.fromkeys([*ours.metrics, *theirs.metrics, *ours.left_out, *theirs.left_out])
    asked = [name for name in ours.prompts if name in theirs.prompts]
    return TaskComparison(
        **dict(metrics[first]),
        metric=first,
        metrics=metrics,
        prompts_differ=sum(ours.prompts[name] != theirs.prompts[name] for name in asked),
        not_compared=tuple(metric for metric in named if metric not in metrics),
    )


def _compare_metric(
    task: str, ours: Sequence[ScoredDocument], theirs: Sequence[ScoredDocument], cluster: str | None
) -> MetricComparison | None:
    sides = _group_copies(ours), _group_copies(theirs)
    matched = [name for name in sides[0] if name in sides[1]]
    counts = {name: min(len(side[name].values) for side in sides) for name in matched}
    valued = [name for name in matched if all(side[name].valued for side in sides)]
    if not valued:
        return None

    numbers: dict[str, int] = {}
    names = [name if cluster is None else _read_cluster(task, sides[0][name].document, cluster) for name in valued]
    clusters_D = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    weights_D = np.array([counts[name] * (sides[0][name].weight + sides[1][name].weight) / 2 for name in valued])
    values = [np.array([float(np.mean(side[name].valued)) for name in valued]) for side in sides]
    found: PairedTest = run_paired_test(values[0], values[1], weights_D, clusters_D)
    kept = sum(counts.values())

    return MetricComparison(
        a=found.a,
        b=found.b,
        difference=found.difference,
        interval=found.interval,
        p=found.p,
        documents=sum(counts[name] for name in valued),
        clusters=found.clusters,
        unmatched=SideCounts(a=len(ours) - kept, b=len(theirs) - kept),
        without_value=SideCounts(
            a=sum(counts[name] for name in matched if not sides[0][name].valued),
            b=sum(counts[name] for name in matched if not sides[1][name].valued),
        ),
    )


def _group_copies(documents: Sequence[ScoredDocument]) -> dict[str, _Copies]:
    """Hash -> copies, with weights whose mean over the side is 1: bytes of two sides may be told in other units."""
    groups: dict[str, list[ScoredDocument]] = defaultdict(list)
    for document in documents:
        groups[document.hash].append(document)
    unit = sum(document.weight for document in documents) / len(documents) or 1.0
    return {
        name: _Copies(
            tuple(each.value for each in copies),
            sum(each.weight for each in copies) / len(copies) / unit,
            copies[0],
        )
        for name, copies in groups.items()
    }


def _read_cluster(task: str, document: ScoredDocument, cluster: str) -> str:
    fields = document.fields
    if cluster not in fields:
        known = ", ".join(map(str, fields)) or "none"
        found = f"expected the field '{cluster}' in every document, found one with: {known}"
        raise EvaluationError(f"--cluster: task '{task}'", found, "Name a field that all documents have.")
    return json.dumps(fields[cluster], sort_keys=True, default=str)


def _explain_nothing(a: Path, b: Path, sides: Sequence[ScoredTasks], common: Sequence[str]) -> EvaluationError:
    where = f"{a} and {b}"
    if not common:
        named = [", ".join([*side][:SHOWN_NAMES]) or "none" for side in sides]
        found = f"expected a task of both, found {named[0]} in the first and {named[1]} in the second"
        return EvaluationError(
            where, found, "Compare scores of the same tasks; a file is called samples_TASK_DATE.jsonl."
        )
    lists = [{*sides[0][task].metrics} & {*sides[1][task].metrics} for task in common]
    if not any(lists):
        named = [", ".join([*side[common[0]].metrics][:SHOWN_NAMES]) or "none" for side in sides]
        found = f"found {named[0]} in the first and {named[1]} in the second"
        found = f"expected a metric of both on task '{common[0]}', {found}"
        return EvaluationError(where, found, "Score both by one metric and filter.")
    found = f"expected a document of both on {', '.join(common[:SHOWN_NAMES])}, found none with a score in each"
    return EvaluationError(where, found, "Compare scores of the same data: documents are matched by their content.")
