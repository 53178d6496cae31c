"""Answers that cannot be right are refused before a model is loaded, the task and the item named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftermix.errors import AftermixError
from aftermix.evaluation.harness import TaskSuite

Row = dict[str, Any]
Edit = Callable[[int, Row], Row]
INDEX = 'doc_to_target: "{{ answer | int }}"'
CUT = "Complete these rows, or drop them in `process_docs`."


def refusal(config: Any) -> str:
    with pytest.raises(AftermixError) as error:
        TaskSuite.build(config)
    return str(error.value)


@pytest.fixture
def refuse(tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any) -> Callable[..., str]:
    """What is refused of the choice task once `edit` has changed its rows and `replace` its YAML."""

    def build(edit: Edit, replace: tuple[str, str] = ("", ""), task: str = "colours") -> str:
        for path in sorted((tasks / "data").glob("*.jsonl")):  # the splits of a data set have one type for each column
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(edit(number, row)) + "\n" for number, row in enumerate(rows)))
        add_task_to(tasks, task, task_texts[task].replace(*replace) if replace[0] else task_texts[task])
        return refusal(config_of(tasks, {"task": task, "metric": "exact_match" if "write" in task else "acc"}))

    return build


def at(numbers: tuple[int, ...], **values: Any) -> Edit:
    return lambda number, row: row | values if number in numbers else row


CASES = {
    "letters": (
        lambda number, row: row | {"answer": "ABCD"[number % 4]},
        "40 of 40 items: 40 with a letter that is none of the choices (item 'colours/0': 'A'). Give the index of the "
        "choice: `doc_to_target: \"{{ 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'.index(answer) }}\"`.",
    ),
    "beyond": (
        at((3, 17), answer=4),
        "2 of 40 items: 2 with an index beyond the choices (item 'colours/3': 4 of 4). "
        "Correct the data; the first choice has the index 0.",
    ),
    "hidden": (
        lambda number, row: row | {"answer": -1},
        "40 of 40 items: 40 with a hidden answer (item 'colours/0': -1). "
        "Take a split with public answers (`test_split`), or drop these documents.",
    ),
    "null": (at((5,), answer=None), f"1 of 40 items: 1 with no answer (item 'colours/5': null). {CUT}"),
    "mixed types": (
        at((9,), answer="B"),
        "1 of 40 items: 1 with a letter that is none of the choices (item 'colours/9': 'B').",
    ),
    "index and text": (
        at((9,), answer="red"),
        "1 of 40 items: 1 with indices and texts mixed (item 'colours/9': 'red'). "
        "Give every document the index of its choice (from 0).",
    ),
    "floats": (
        lambda number, row: row | {"answer": float(row["answer"])},
        "40 of 40 items: 40 with a float as answer (item 'colours/0': 0.0). "
        f"Write the answer as an integer: `{INDEX}`.",
    ),
    "digits": (
        lambda number, row: row | {"answer": str(row["answer"])},
        "40 of 40 items: 40 with a number as text that is none of the choices (item 'colours/0': '0'). "
        'Give the index as a number: `doc_to_target: "{{ answer }}"`.',
    ),
    "words": (
        lambda number, row: row | {"answer": row["text"].title()},
        "40 of 40 items: 40 with a text that is none of the choices (item 'colours/0': 'Red'). "
        "Give the index of the right choice (from 0), or its exact text.",
    ),
    "one list": (at((4,), answer=[1, 2]), "1 with lists and single answers mixed (item 'colours/4': [1, 2])."),
    "an empty choice": (
        at((21,), choices=["red", "", "blue"]),
        "1 of 40 items: 1 with an empty choice (item 'colours/21': choice 1). "
        "Correct these documents, or drop them in `process_docs`.",
    ),
    "a null choice": (
        at((21,), choices=["red", "green", None]),
        "a choice that is no text (item 'colours/21': choice 2",
    ),
    "no choices": (at((21,), choices=[]), "1 with no list of choices (item 'colours/21': [])."),
}


TYPED = {"digits", "floats", "one list"}
"""A template writes these as indices, or as other texts."""


@pytest.mark.parametrize(
    ("name", "template"),
    [*((name, "answer") for name in CASES), *((name, '"{{answer}}"') for name in CASES if name not in TYPED)],
)
def test_an_answer_that_no_choice_can_be(refuse: Any, name: str, template: str) -> None:
    edit, expected = CASES[name]
    text = refuse(edit, ("doc_to_target: answer", f"doc_to_target: {template}"))
    assert text.startswith("task 'colours': has answers that cannot be right in ")
    assert expected in text


def test_the_first_document_is_named_though_lm_eval_itself_stumbles_over_it(refuse: Any) -> None:
    assert refuse(at((0,), answer=9)) == (
        "task 'colours': has answers that cannot be right in 1 of 40 items: 1 with an index beyond the choices (item "
        "'colours/0': 9 of 4). Correct the data; the first choice has the index 0."
    )


def test_an_empty_choice_of_the_first_document(refuse: Any) -> None:
    assert "1 with an empty choice (item 'colours/0': choice 1)." in refuse(at((0,), choices=["red", "", "blue", "x"]))


def test_several_kinds_and_tasks_are_told_at_once(
    tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any
) -> None:
    path = tasks / "data" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["answer"], rows[5]["answer"], rows[7]["text"] = 7, -1, ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    add_task_to(tasks, "next_text", task_texts["continue_colour"].replace('" {{text}}"', "text"))

    text = refusal(config_of(tasks, "colours", {"task": "next_text", "metric": "acc"}))
    assert text.startswith(
        "2 problems:\n  1. task 'colours': has answers that cannot be right in 2 of 40 items: 1 with"
    )
    assert (
        "an index beyond the choices (item 'colours/2': 7 of 4); 1 with a hidden answer (item 'colours/5': -1)" in text
    )
    assert "2. task 'next_text': has answers that cannot be right in 1 of 40 items: 1 with an empty text" in text


def test_a_csv_with_a_gap_is_one_line(tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any) -> None:
    lines = [f"q{number},{'' if number == 7 else number % 4}" for number in range(40)]
    (tasks / "data" / "test.csv").write_text("\n".join(["question,answer", *lines]) + "\n")
    text = (
        task_texts["test_only"]
        .replace("dataset_path: json", "dataset_path: csv")
        .replace("{train: data/train.jsonl, test: data/test.jsonl}", "{test: data/test.csv}")
    )
    text = text.replace('"{{choices}}"', "[red, green, blue, yellow]")
    add_task_to(tasks, "gap", text)
    assert refusal(config_of(tasks, "gap")) == (
        "task 'gap': has answers that cannot be right in 40 of 40 items: 39 with a float as answer "
        f"(item 'gap/0': 0.0); 1 with no answer (item 'gap/7': null). Write the answer as an integer: `{INDEX}`. {CUT}"
    )


def test_an_answer_that_is_to_be_written_may_not_be_null(refuse: Any) -> None:
    text = refuse(at((6,), text=None), ('"{{text[0]}}"', "'{{ text }}'"), "write_colour")
    assert text == (
        "task 'write_colour': has answers that cannot be right in 1 of 40 items: "
        f"1 with no answer (item 'write_colour/6': null). {CUT}"
    )


def test_a_generated_answer_of_choices_takes_no_index_from_the_end(refuse: Any) -> None:
    """lm-eval takes `choices[answer]` there, and -1 is the last choice to Python."""
    replace = ('doc_to_target: "{{text[0]}}"', "doc_to_choice: choices\ndoc_to_target: answer")
    assert "1 with a hidden answer (item 'write_colour/6': -1)." in refuse(at((6,), answer=-1), replace, "write_colour")


def test_answers_in_order_pass(tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any) -> None:
    """Indices, exact texts, lists of indices, and a task that compares answers itself."""
    own = "def score(doc, results):\n    return {'acc': float(results[0][0] > results[1][0])}\n"
    (tasks / "own.py").write_text(own)
    choice = task_texts["colours"]
    add_task_to(tasks, "texts", choice.replace("doc_to_target: answer", "doc_to_target: text"))
    add_task_to(tasks, "lists", choice.replace("doc_to_target: answer", "doc_to_target: '[{{answer}}, 0]'"))
    letters = choice.replace("doc_to_target: answer", "doc_to_target: '{{ \"ABCD\"[answer] }}'")
    add_task_to(tasks, "letters", letters + "process_results: !function own.score\n")
    suite = TaskSuite.build(config_of(tasks, "colours", "texts", "lists", "letters"))
    assert set(suite.tasks) == {"colours", "texts", "lists", "letters"}


def test_the_remedy_for_letters_can_be_followed(
    tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any, refuse: Any
) -> None:
    text = refuse(lambda number, row: row | {"answer": "abcd"[number % 4]})
    remedy = re.search("`(doc_to_target: .*)`", text)
    assert remedy
    add_task_to(tasks, "colours", task_texts["colours"].replace("doc_to_target: answer", remedy[1]))
    suite = TaskSuite.build(config_of(tasks, "colours"))
    leaf = suite._leaves["colours"]["colours"]
    assert [leaf.doc_to_target(document) for document in leaf.task_docs][:5] == [0, 1, 2, 3, 0]
