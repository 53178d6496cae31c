"""`samples_TASK_DATE.jsonl` of lm-eval: a line for each document and filter, with its scores."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aftermix.errors import EvaluationError
from aftermix.evaluation.samples.scored_documents import ScoredDocument, ScoredTask, hash_as_samples, read_value

NAME = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT[\d.\-]+))?\.jsonl")
LOG_SAMPLES = "Name a folder or a file that lm-eval wrote with `--log_samples --output_path`."


def find_sample_files(path: Path) -> dict[str, Path]:
    """Task -> the file of its samples: of a file itself, of a folder at any depth the newest of each task.

    Empty where there is none.
    """
    if path.is_file():
        found = NAME.fullmatch(path.name)
        return {found["task"] if found else path.stem: path}
    dated = [(match, file) for file in path.rglob("samples_*.jsonl") if (match := NAME.fullmatch(file.name))]
    dated.sort(key=lambda each: (each[0]["date"] or "", each[1].as_posix()))
    return {match["task"]: file for match, file in dated}


def read_sample_files(path: Path) -> dict[str, ScoredTask]:
    """Task -> its scores, of a file or of all in a folder.

    Raises :class:`EvaluationError` where there is none, and naming the line that is none of lm-eval's.
    """
    files = find_sample_files(path)
    if not files:
        raise EvaluationError(str(path), "holds neither a run nor a file `samples_*.jsonl`", LOG_SAMPLES)
    return {task: read_sample_file(file) for task, file in sorted(files.items())}


def read_sample_file(path: Path) -> ScoredTask:
    """The scores in one file. Raises as :func:`read_sample_files`."""
    metrics: dict[str, list[ScoredDocument]] = defaultdict(list)
    left_out: dict[str, None] = {}
    prompts: dict[str, str] = {}
    for where, sample in _read_lines(path):
        document, filter_name = sample["doc"], sample.get("filter", "none")
        name = sample.get("doc_hash") or hash_as_samples(document)
        fields = document if isinstance(document, dict) else {}
        if isinstance(sample.get("prompt_hash"), str):
            prompts[name] = sample["prompt_hash"]

        for metric in _list_metrics(sample, where):
            read = read_value(metric, sample[metric])
            if read is None:
                left_out[f"{metric},{filter_name}"] = None
                continue
            value = read[0] if math.isfinite(read[0]) else None
            metrics[f"{metric},{filter_name}"].append(ScoredDocument(name, value, read[1], fields))
    return ScoredTask(metrics, tuple(each for each in left_out if each not in metrics), prompts)


def _read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(str(path), f"cannot be read ({error})", LOG_SAMPLES) from error

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            sample = json.loads(line)
        except ValueError as error:
            raise EvaluationError(where, f"is no JSON ({error})", LOG_SAMPLES) from error
        if not isinstance(sample, dict) or "doc" not in sample:
            raise EvaluationError(where, "expected a sample of lm-eval, with its `doc`, found none", LOG_SAMPLES)
        yield where, sample


def _list_metrics(sample: Mapping[str, Any], where: str) -> list[str]:
    """Names of the metrics; of files that do not list them, all keys that lm-eval does not know itself."""
    known = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
    known |= {"doc_hash", "prompt_hash", "target_hash"}
    listed = sample.get("metrics")
    names = listed if isinstance(listed, list) else [key for key in sample if key not in known]
    absent = [name for name in names if name not in sample]
    if absent or not names:
        found = f"has no value of its metric '{absent[0]}'" if absent else "has no metric"
        raise EvaluationError(where, found, LOG_SAMPLES)
    return names
