"""Items of equal rows stand in one split, within a task and across tasks; the split of others is as ever."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import ItemsConfig
from aftermix.errors import EvaluationError
from aftermix.evaluation.equal_items import SPLITS, EqualItems
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.items import TaskItems, split_items
from aftermix.jobs.evaluator import build_split_record

CODE = """
import random
import datasets

def shuffle(rows):
    def one(row):
        k = list(range(4)); random.shuffle(k)
        return {"choices": [row["choices"][i] for i in k], "answer": k.index(row["answer"])}
    return rows.map(one)

def odd(rows):
    return rows.filter(lambda row: len(row["question"]) % 3).map(lambda row: {"question": row["question"].upper()})

def backwards(rows):
    return rows.select(range(len(rows) - 1, -1, -1))

def rebuilt(rows):
    return datasets.Dataset.from_list([{"question": r["question"], "choices": r["choices"], "answer": r["answer"],
                                        "place": n} for n, r in enumerate(rows)])

def twofold(rows):
    double = lambda batch: {key: [v for v in values for _ in (0, 1)] for key, values in batch.items()}
    return rows.map(double, batched=True)
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)


def write_rows(tasks: Path, rows: Iterable[dict[str, Any]]) -> None:
    (tasks / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(tasks: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tasks / "data" / "test.jsonl").read_text().splitlines()]


def list_questions(suite: TaskSuite, split: str) -> set[str]:
    """The questions behind the items of `split`, of all tasks."""
    found = set()
    for name, items in suite.tasks.items():
        for item in items.of(split):  # type: ignore[arg-type]
            leaf, _, number = item.rpartition("/")
            found.add(suite._leaves[name][leaf].task_docs[int(number)]["question"].lower())
    return found


def assert_apart(suite: TaskSuite) -> None:
    seen = [list_questions(suite, split) for split in SPLITS]
    assert sum(map(len, seen)) == len(set.union(*seen))


def count(items: TaskItems) -> list[int]:
    return [len(items.of(split)) for split in SPLITS]


def test_copies_in_one_task_stand_together_and_the_record_counts_them(tasks: Path, config_of: Any) -> None:
    rows = read_rows(tasks)
    write_rows(tasks, [copy for row in rows[:20] for copy in (row, dict(reversed(row.items())))] + rows[20:])
    suite = TaskSuite.build(config_of(tasks, "colours", items={"search": 21, "select": 15}))
    assert_apart(suite)
    assert count(suite.tasks["colours"]) == [21, 15, 24]
    assert build_split_record(suite).model_dump(exclude_unset=True)["colours"]["grouped"] == 40
    assert suite.tasks["colours"].note is None

    # Copies are of one document, numbered by their first items; a task without copies has none to tell.
    items = suite.tasks["colours"].search
    documents = suite.tabulate_requests(None)["colours"].splits["search"].documents
    assert documents is not None
    docs = suite._leaves["colours"]["colours"].task_docs
    contents = [docs[int(item.rpartition("/")[2])]["question"] for item in items]
    assert documents.tolist() == [sorted(set(contents), key=contents.index).index(content) for content in contents]
    assert len(set(contents)) < len(items)
    # A run of an earlier version goes on with its own split.
    old = TaskSuite.build(config_of(tasks, "colours", items={"search": 21, "select": 15}), equal_rows_together=False)
    assert len(list_questions(old, "search") & list_questions(old, "test")) > 3
    assert "grouped" not in build_split_record(old).model_dump(exclude_unset=True)["colours"]


@pytest.mark.parametrize("code", ["shuffle", "odd", "backwards", "rebuilt"])
def test_copies_are_known_through_process_docs(code: str, tasks: Path, config_of: Any, task_texts: Any) -> None:
    rows = read_rows(tasks)
    write_rows(tasks, [*rows[:25], *rows[:25]])
    (tasks / "u.py").write_text(CODE)
    (tasks / "made.yaml").write_text(f"task: made\n{task_texts['test_only']}process_docs: !function u.{code}\n")
    suite = TaskSuite.build(config_of(tasks, "made", items={"search": 8, "select": 8}))
    assert_apart(suite)
    assert suite.tasks["made"].grouped == sum(count(suite.tasks["made"])) >= 30


def test_documents_made_of_one_row_stand_together(tasks: Path, config_of: Any, task_texts: Any) -> None:
    (tasks / "u.py").write_text(CODE)
    (tasks / "made.yaml").write_text(f"task: made\n{task_texts['test_only']}process_docs: !function u.twofold\n")
    suite = TaskSuite.build(config_of(tasks, "made", items={"search": 20, "select": 20}))
    assert_apart(suite)
    assert (count(suite.tasks["made"]), suite.tasks["made"].grouped) == ([20, 20, 40], 80)


def test_tasks_over_the_same_rows_split_them_alike(tasks: Path, config_of: Any, task_texts: Any) -> None:
    rows = read_rows(tasks)
    (tasks / "data" / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[10:30]))
    few = task_texts["test_only"].replace("data/test.jsonl", "data/few.jsonl").replace("Question:", "Say:")
    (tasks / "few.yaml").write_text(f"task: few\n{few}")
    for names in (("colours", "few", "write_colour"), ("few", "both", "write_colour")):
        suite = TaskSuite.build(config_of(tasks, *names, items={"search": 6, "select": 8}))
        assert_apart(suite)
        assert list(suite.tasks) == list(names)
        assert [count(items)[:2] for items in suite.tasks.values()] == [[6, 8]] * 3
        assert suite.tasks["few"].grouped == 20
        turned = TaskSuite.build(config_of(tasks, *names[::-1], items={"search": 6, "select": 8}))
        assert turned.tasks == suite.tasks


def test_rows_are_equal_in_whatever_form_they_are_stored(tasks: Path, config_of: Any, task_texts: Any) -> None:
    rows = read_rows(tasks)
    padded = datasets.Dataset.from_list([*rows[::-1], {**question_of(rows), "note": "of another row"}])
    padded.to_parquet(tasks / "data" / "rows.parquet")
    stored = task_texts["test_only"].replace("dataset_path: json", "dataset_path: parquet")
    stored = stored.replace("{train: data/train.jsonl, test: data/test.jsonl}", "{test: data/rows.parquet}")
    (tasks / "stored.yaml").write_text(f"task: stored\n{stored}")
    suite = TaskSuite.build(config_of(tasks, "stored", "test_only"))
    assert_apart(suite)
    assert {name: items.grouped for name, items in suite.tasks.items()} == {"stored": 40, "test_only": 40}


def question_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {**rows[0], "question": "asked nowhere else"}


def test_the_first_items_are_the_papers_own_and_test_shares_no_row_with_them(tasks: Path, config_of: Any) -> None:
    rows = read_rows(tasks)
    write_rows(tasks, [*rows, rows[2], rows[30]])
    items = {"search": 5, "select": 8, "scheme": "first"}
    suite = TaskSuite.build(config_of(tasks, "colours", "write_colour", items=items))
    parts = suite.tasks["colours"]
    assert parts.select == tuple(f"colours/{n}" for n in range(8))
    assert parts.test == tuple(f"colours/{n}" for n in (*range(8, 40), 41))
    assert (parts.grouped, parts.note) == (42, "equal rows stay together: search 5, select 8, test 33")


def test_a_task_of_one_row_many_times_is_refused(tasks: Path, config_of: Any) -> None:
    write_rows(tasks, read_rows(tasks)[:1] * 40)
    with pytest.raises(EvaluationError) as refusal:
        TaskSuite.build(config_of(tasks, "test_only"))
    assert str(refusal.value) == (
        "task 'test_only': expected items to search on, found none: too many are of equal rows, which stay together. "
        "Lower `evaluate.items`, or drop the repeated rows."
    )


def test_the_split_without_repeated_rows_has_the_bytes_that_it_had(tasks: Path, config_of: Any) -> None:
    plain = TaskSuite.build(config_of(tasks, "colours", num_fewshot=2))
    apart = TaskSuite.build(config_of(tasks, "colours", num_fewshot=2), equal_rows_together=False)
    assert build_split_record(plain).to_bytes() == build_split_record(apart).to_bytes()
    assert '"grouped"' not in build_split_record(plain).to_bytes().decode()


@given(
    sizes=st.lists(st.integers(1, 4), min_size=8, max_size=40),
    search=st.integers(1, 12),
    select=st.integers(1, 12),
    seed=st.integers(0, 3),
)
def test_groups_are_whole_and_parts_have_their_counts_where_single_items_fill_them(
    sizes: list[int], search: int, select: int, seed: int
) -> None:
    sizes = [*sizes, *[1] * 30]
    rows = {f"leaf/{n}": row for n, row in enumerate(row for row, size in enumerate(sizes) for _ in range(size))}
    repeated = {item: bytes([row]) for item, row in rows.items() if sizes[row] > 1}
    golds = {item: str(n % 3) for n, item in enumerate(rows)}
    items = ItemsConfig(search=search, select=select, seed=seed)
    parts = split_items(golds, task="t", items=items, fixed=frozenset(), equal=EqualItems(repeated))
    owner = [{rows[item] for item in parts.of(name)} for name in SPLITS]
    assert sum(map(len, owner)) == len(set.union(*owner)) == len(sizes)
    assert count(parts) == [search, select, len(rows) - search - select]
    alone = split_items(golds, task="t", items=items, fixed=frozenset(), equal=EqualItems({}))
    assert alone == split_items(golds, task="t", items=items, fixed=frozenset())
