"""Hashes of a task tell everything that decides its scores, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aftermix.evaluation.documents.canonical import encode_document
from aftermix.evaluation.harness import TaskSuite

CODE = """
import words
from words import SMALL


def score(doc, results):
    # The highest wins.
    best = max(range(4), key=lambda n: results[n][0])
    return {"acc": float(best == doc["answer"]) * words.WEIGHT}


def near(references, predictions):
    return float(abs(len(references[0]) - len(predictions[0])) < SMALL)
"""
WORDS = "WEIGHT = 1.0\nSMALL = 3\n"
FILTERS = """
from lm_eval.api.filter import Filter


class LastLine(Filter):
    def apply(self, resps, docs):
        return [[text.splitlines()[-1] if text else "" for text in answers] for answers in resps]


class Unused:
    pass
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)


@pytest.fixture
def coded(tasks: Path, task_texts: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A choice task with its own scoring, and a generation task with its own metric and filter."""
    (tasks / "u.py").write_text(CODE)
    (tasks / "words.py").write_text(WORDS)
    (tasks / "f.py").write_text(FILTERS)
    (tasks / "coded.yaml").write_text(f"task: coded\n{task_texts['colours']}process_results: !function u.score\n")
    written = task_texts["write_colour"].partition("metric_list")[0]
    (tasks / "written.yaml").write_text(
        f"task: written\n{written}num_fewshot: 1\nmetric_list:\n"
        "  - {metric: !function u.near, aggregation: mean, higher_is_better: true}\n"
        "filter_list:\n  - {name: last, filter: [{function: custom, filter_fn: !function f.LastLine}, "
        "{function: take_first}]}\n"
    )
    monkeypatch.syspath_prepend(str(tasks))
    monkeypatch.delitem(sys.modules, "words", raising=False)
    return tasks


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        os.utime(path, ns=(2**60, 2**60 + len(new)))  # another time of change, as an editor leaves

    return apply


def edit_rows(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "data" / name
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            change(row)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return apply


REQUESTS, DOCUMENTS = {"requests"}, {"documents"}
CHANGES: dict[str, tuple[str, Callable[[Path], None], set[str]]] = {
    "prompt": ("colours", edit("colours.yaml", "Question: ", "Q: "), REQUESTS),
    "delimiter": (
        "colours",
        edit("colours.yaml", "doc_to_target", 'target_delimiter: "_"\ndoc_to_target'),
        {"requests"},
    ),
    "choices": ("colours", edit_rows("test.jsonl", lambda row: row["choices"].reverse()), REQUESTS | DOCUMENTS),
    "a column that no prompt shows": (
        "colours",
        edit_rows("test.jsonl", lambda row: row.update(text=0)),
        {"documents"},
    ),
    "few-shot text": ("written", edit_rows("train.jsonl", lambda row: row.update(question="?")), REQUESTS),
    "stop text": ("written", edit("written.yaml", '["\\n", "."]', '["\\n"]'), REQUESTS),
    "length of answers": ("written", edit("written.yaml", "max_gen_toks: 12", "max_gen_toks: 13"), REQUESTS),
    "option of a metric": (
        "write_colour",
        edit("write_colour.yaml", "ignore_case: true", "ignore_case: false"),
        {"requests"},
    ),
    "option of a filter": ("write_colour", edit("write_colour.yaml", "([a-z])", "([a-y])"), REQUESTS),
    "process_results": ("coded", edit("u.py", "best == doc", "best != doc"), REQUESTS),
    "a module that it imports": ("coded", edit("words.py", "WEIGHT = 1.0", "WEIGHT = 0.5"), REQUESTS),
    "a metric function": ("written", edit("u.py", "< SMALL", "<= SMALL"), REQUESTS),
    "a filter class": ("written", edit("f.py", "[-1]", "[0]"), REQUESTS),
    "a comment in the code": ("coded", edit("u.py", "# The highest wins.", "# Ties go to the first."), set()),
    "code that does not score": ("colours", edit("u.py", "best == doc", "best != doc"), set()),
    "layout of the YAML": ("colours", edit("colours.yaml", "metric_list:", "# metrics\nmetric_list:"), set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_a_score_changes_the_hash_and_nothing_else_does(name: str, coded: Path, config_of: Any) -> None:
    task, change, expected = CHANGES[name]
    before = TaskSuite.build(config_of(coded, task)).fingerprint_tasks(None)[task]
    change(coded)
    after = TaskSuite.build(config_of(coded, task)).fingerprint_tasks(None)[task]
    assert {field for field in ("requests", "documents") if getattr(before, field) != getattr(after, field)} == expected
    assert before.requests.startswith("sha256:")
    assert len(before.documents) == len("sha256:") + 64


def test_another_place_and_another_cache_are_the_same_task(
    coded: Path, config_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("colours", "coded", "written")
    here = TaskSuite.build(config_of(coded, *names)).fingerprint_tasks(None)
    moved = Path(shutil.copytree(coded, tmp_path / "moved"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert TaskSuite.build(config_of(moved, *names)).fingerprint_tasks(None) == here
    assert len({task.requests for task in here.values()}) == 3


def test_all_that_a_metric_says_is_hashed(coded: Path, config_of: Any) -> None:
    first, second = (
        TaskSuite.build(config_of(coded, {"task": "colours", "metric": metric})).fingerprint_tasks(None)["colours"]
        for metric in ("acc", "acc_norm")
    )
    assert first.requests != second.requests
    assert first.documents == second.documents


def test_a_document_has_the_same_bytes_in_every_process() -> None:
    class Picture:
        def tobytes(self) -> bytes:
            return b"pixels"

    document = {"b": np.array([1, 2]), "a": {"z": None, "y": [0.5, "日"]}, "d": object()}
    assert encode_document(document) == '{"a":{"y":[0.5,"日"],"z":null},"b":[1,2],"d":"object"}'.encode()
    assert encode_document({"e": Picture()}) == encode_document({"e": Picture()}) == encode_document({"e": b"pixels"})
    assert encode_document({"d": object()}) == encode_document({"d": object()})
    assert encode_document({"d": b"\0"}) != encode_document({"d": b"\1"})
    assert encode_document({"a": 1, "b": 2}) == encode_document({"b": 2, "a": 1}) == b'{"a":1,"b":2}'
