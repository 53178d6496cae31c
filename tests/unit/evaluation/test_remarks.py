"""What a user is told of tasks whose scores may mislead, and of nothing where nothing is odd."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftermix.evaluation.harness import TaskSuite

Row = dict[str, Any]
Tell = Callable[..., list[str]]
WRITES = "def score(doc, results):\n    said = results[0].strip()\n    {}\n"
CHOOSES = "def score(doc, results):\n    taken = max(range(4), key=lambda n: results[n][0])\n    {}\n"
DROPS = (
    "its scoring gives some answers to an item no value of 'acc', and these are in no mean: a model that gives few "
    "answers may win. Return a value for every answer in `process_results`, 0 for one that cannot be read."
)


@pytest.fixture
def tell(tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any) -> Tell:
    """The remarks on a task made of the task `base` with `edit` of its test rows, `replace` in its YAML and `more`."""

    def build(
        edit: Callable[[int, Row], Row] = lambda _, row: row,
        *,
        base: str = "colours",
        replace: tuple[str, str] = ("\n", "\n"),
        more: str = "",
        python: str | None = None,
        **options: Any,
    ) -> list[str]:
        path = tasks / "data" / "test.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(edit(number, row)) + "\n" for number, row in enumerate(rows)))
        if python is not None:
            (tasks / "own.py").write_text(python)
            more += "process_results: !function own.score\n"
        add_task_to(tasks, "odd", task_texts[base].replace(*replace) + more)
        name = options.pop("name", "odd")
        task = {"task": name, **options.pop("task", {})}
        return [str(remark) for remark in TaskSuite.build(config_of(tasks, task, **options)).remarks]

    return build


@pytest.mark.parametrize("base", ["colours", "continue_colour", "write_colour", "test_only"])
@pytest.mark.parametrize("shots", [0, 2])
def test_nothing_is_said_of_usual_tasks(tell: Tell, base: str, shots: int) -> None:
    task = {"metric": "exact_match" if base == "write_colour" else "acc"}
    assert tell(base=base, num_fewshot=shots, task=task) == []


class TestShots:
    def test_a_task_that_goes_without_is_named_with_the_way_to_have_them(self, tell: Tell) -> None:
        assert tell(more="num_fewshot: 0\n", num_fewshot=5) == [
            "task 'odd': is asked without few-shot examples, since the YAML says `num_fewshot: 0`, and not with "
            "`evaluate.num_fewshot: 5`. Say `{task: odd, num_fewshot: 5}` in `evaluate.tasks` to have them all the "
            "same."
        ]

    def test_what_the_remedy_says_is_what_is_done(self, tell: Tell) -> None:
        assert tell(more="num_fewshot: 0\n", num_fewshot=5, task={"num_fewshot": 5}) == []

    @pytest.mark.parametrize("options", [{}, {"num_fewshot": 0}, {"num_fewshot": 2, "task": {"num_fewshot": 0}}])
    def test_nobody_is_told_who_did_not_ask(self, tell: Tell, options: dict[str, Any]) -> None:
        assert tell(more="num_fewshot: 0\n", **options) == []

    def test_members_of_a_group_are_counted(self, tell: Tell, tasks: Path) -> None:
        (tasks / "some.yaml").write_text("group: some\ntask: [colours, odd]\n")
        (remark,) = tell(more="num_fewshot: 0\n", num_fewshot=3, name="some")
        assert "since the YAML of 1 of its tasks says `num_fewshot: 0`" in remark


class TestTwins:
    def test_a_right_choice_with_the_text_of_an_earlier_one_cannot_win(self, tell: Tell) -> None:
        twins = {3: ["red", "green", "blue", "red"], 7: ["red", "blue", "blue", "blue"], 9: ["red"] * 4}
        assert tell(lambda number, row: row | {"choices": twins.get(number, row["choices"])}) == [
            "task 'odd': the text of the right choice is an earlier choice, too, and that one is taken: 3 of 40 items "
            "can never be right (item 'odd/3'). Give the index of the first, or drop these documents in `process_docs`."
        ]

    def test_that_is_so(self, tell: Tell, tasks: Path, config_of: Any, model_a: Path, tokenizer_folder: Path) -> None:
        from aftermix.evaluation.engines.hf import HuggingFaceEngine

        (remark,) = tell(lambda _, row: row | {"choices": ["red"] * 4, "answer": 3})
        assert "40 of 40 items" in remark
        config = config_of(tasks, "odd")
        engine = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config)
        assert TaskSuite.build(config).evaluate(engine.lm, "search").scores == {"odd": 0.0}

    def test_a_twin_that_comes_later_or_is_named_by_its_text_is_right(self, tell: Tell) -> None:
        assert tell(lambda _, row: row | {"choices": ["red", "green", "red", "green"], "answer": 1}) == []
        by_text = ("doc_to_target: answer", 'doc_to_target: "{{choices[3]}}"')
        assert tell(lambda _, row: row | {"choices": ["red", "green", "red", "green"]}, replace=by_text) == []

    def test_scoring_of_the_tasks_own_is_believed(self, tell: Tell) -> None:
        own = CHOOSES.format("return {'acc': float(doc['choices'][taken] == doc['choices'][doc['answer']])}")
        assert tell(lambda _, row: row | {"choices": ["red"] * 4, "answer": 3}, python=own) == []


class TestExamples:
    def test_an_item_with_the_words_of_an_example_is_told(self, tell: Tell, tasks: Path) -> None:
        path = tasks / "data" / "train.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row, thing in zip(rows, ["ball", "door", "lamp", "tree"], strict=False):
            row["question"] = f"seen {thing}: red, green, blue, dark yellow?".replace("yellow?", "yellow ?")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

        def ask(number: int, row: Row) -> Row:
            things = ["ball", "door", "lamp", "tree"]
            turned = f"seen {things[number % 4]}: green, red, dark blue, yellow ?"
            return row | {"question": turned} if number < 4 else row

        assert tell(ask, num_fewshot=2) == [
            "task 'odd': 4 of 40 scored items have the words of a few-shot example, whose answer may stand in a prompt "
            "(item 'odd/0'). Take these rows out of the split of the examples (`fewshot_split`)."
        ]
        assert tell(ask, num_fewshot=0) == []

    def test_a_prompt_that_all_items_share_asks_nothing(self, tell: Tell) -> None:
        same = ("Question: {{question}}", "Which colour is it?")
        assert tell(replace=same, num_fewshot=2) == []


class TestDroppedAnswers:
    @pytest.mark.parametrize(
        "line",
        [
            "return {'acc': float(said == doc['text'])} if said else {}",
            "return {'acc': float(said == doc['text'])} if said in tuple('rgbd') else {}",
            "return {'acc': float(said == doc['text']), 'rest': 0.0} if said.isalpha() else {'rest': 1.0}",
        ],
    )
    def test_of_a_generating_task(self, tell: Tell, line: str) -> None:
        own = WRITES.format(line)
        rest = "  - {metric: acc, aggregation: mean, higher_is_better: true}\nfilter_list:"
        found = tell(
            base="write_colour", python=own, replace=("filter_list:", rest), task={"metric": "acc", "filter": "strict"}
        )
        assert found == [f"task 'odd': {DROPS}"]

    def test_of_a_task_of_choices(self, tell: Tell) -> None:
        own = CHOOSES.format("return {'acc': float(taken == doc['answer'])} if taken < 2 else {}")
        assert tell(python=own) == [f"task 'odd': {DROPS}"]

    def test_a_value_that_is_a_matter_of_the_document_is_none(self, tell: Tell) -> None:
        own = CHOOSES.format("return {'acc': float(taken == doc['answer'])} if doc['answer'] < 2 else {}")
        assert tell(python=own) == []
