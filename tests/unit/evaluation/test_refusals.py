"""What is wrong with a task is said before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.errors import EvaluationError
from aftermix.evaluation.harness import TaskSuite


def refusal(config: Any) -> str:
    with pytest.raises(EvaluationError) as error:
        TaskSuite.build(config)
    return str(error.value)


def test_a_metric_where_lower_is_better(tasks: Path, config_of: Any) -> None:
    assert refusal(config_of(tasks, "continue_colour")) == (
        "task 'continue_colour': expected a metric that is a mean over items with higher better, found 'perplexity': "
        "it is not a mean over items. Set `metric` to one of: acc."
    )


def test_a_mean_where_lower_is_better(tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any) -> None:
    add_task_to(tasks, "errors", task_texts["colours"].replace("higher_is_better: true", "higher_is_better: false"))
    assert (
        "found 'acc': lower is better. Take another task, or score each document by a number of which more is better, "
        "in `process_results: !function FILE.NAME` with `metric_list: [{metric: NAME, aggregation: mean, "
        "higher_is_better: true}]`."
    ) in refusal(config_of(tasks, "errors"))


def test_an_unknown_metric_or_filter(tasks: Path, config_of: Any) -> None:
    assert refusal(config_of(tasks, {"task": "colours", "metric": "bleu"})) == (
        "task 'colours': has no metric 'bleu'. Set `metric` to one of: acc, acc_norm."
    )
    assert refusal(config_of(tasks, {"task": "write_colour", "filter": "flexible-extract"})) == (
        "task 'write_colour': has no filter 'flexible-extract'. Set `filter` to one of: strict, last_letter."
    )


def test_a_task_that_runs_code_needs_permission(
    tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    add_task_to(tasks, "runs_code", task_texts["runs_code"])
    (tasks / "code_group.yaml").write_text("group: code_group\ntask: [colours, runs_code]\n")
    expected = (
        "task 'runs_code': runs code that the model writes. "
        "Set `evaluate.unsafe_code: true` if this machine may run it, or take another task."
    )
    assert refusal(config_of(tasks, "runs_code")) == expected
    assert refusal(config_of(tasks, "code_group")) == expected
    assert set(TaskSuite.build(config_of(tasks, "runs_code", unsafe_code=True)).tasks) == {"runs_code"}


def test_fewer_items_than_asked_for(tasks: Path, config_of: Any) -> None:
    assert refusal(config_of(tasks, "colours", items={"search": 30, "select": 20})) == (
        "task 'colours': asked for search 30, select 20, test rest items (disjoint), but it has 40. "
        "Lower `evaluate.items`, or leave its counts out to split small tasks in proportion."
    )


def test_a_small_task_with_the_default_counts_is_split_evenly_or_in_proportion(tasks: Path, config_of: Any) -> None:
    suite = TaskSuite.build(config_of(tasks, "colours", items={}))
    assert suite.count_items() == {"colours": {"search": 13, "select": 13, "test": 14}}
    told = "only 40 items, fewer than the default counts need: search 13, select 13, test 14"
    assert suite.tasks["colours"].note == told
    suite = TaskSuite.build(config_of(tasks, "colours", items={"small": "proportion"}))
    assert suite.count_items() == {"colours": {"search": 6, "select": 16, "test": 18}}
    assert suite.tasks["colours"].note == "only 40 items, so they are split in proportion: search 6, select 16, test 18"


APART = (
    "Its group has no {0} that all of its tasks have: name them one by one in `evaluate.tasks`, each with its `{0}`, "
    "or make a group for each."
)


@pytest.mark.parametrize(
    ("members", "metric", "expected"),
    [
        ("colours, continue_colour", "acc_norm", "task 'continue_colour': has no metric 'acc_norm'. {set} acc."),
        (
            "continue_colour, colours",
            None,
            "task 'continue_colour': expected a metric that is a mean over items with "
            "higher better, found 'perplexity': it is not a mean over items. {set} acc.",
        ),
        ("colours, write_colour", None, f"task 'write_colour': has no filter 'none'. {APART.format('filter')}"),
        ("colours, say", None, f"task 'say': has no metric 'acc'. {APART.format('metric')}"),
        ("say, colours", "exact_match", f"task 'colours': has no metric 'exact_match'. {APART.format('metric')}"),
        ("colours, plain", "acc_norm", "task 'plain': has no metric 'acc_norm'. {set} acc."),
    ],
)
def test_the_metric_of_a_group_is_one_that_all_of_its_tasks_have(
    members: str, metric: str | None, expected: str, tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any
) -> None:
    norm = "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    add_task_to(tasks, "plain", task_texts["colours"].replace(norm, ""))
    add_task_to(tasks, "say", task_texts["write_colour"].partition("filter_list:")[0])
    (tasks / "odd.yaml").write_text(f"group: odd\ntask: [{members}]\n")
    task = {"task": "odd", **({"metric": metric} if metric else {})}
    told = refusal(config_of(tasks, task))
    assert told == expected.replace("{set}", "Set `metric` to one of:")
    if "Set `metric`" in told:  # it can be followed
        assert set(TaskSuite.build(config_of(tasks, {"task": "odd", "metric": "acc"})).tasks) == {"odd"}


def test_a_task_and_a_group_that_holds_it(tasks: Path, config_of: Any) -> None:
    assert refusal(config_of(tasks, "colours", {"task": "both", "metric": "acc"})) == (
        "evaluate.tasks: 'colours' is in both 'colours' and 'both'. Name it once."
    )


def test_more_examples_than_there_are(tasks: Path, config_of: Any) -> None:
    assert refusal(config_of(tasks, {"task": "colours", "num_fewshot": 13})) == (
        "task 'colours': asked for 13 few-shot examples, but it has 12 to draw from. Lower `num_fewshot`."
    )


def test_a_missing_data_file(tasks: Path, config_of: Any) -> None:
    (tasks / "data" / "test.jsonl").unlink()
    assert "data file 'data/test.jsonl' is neither beside the YAML file" in refusal(config_of(tasks, "colours"))


def test_a_template_that_names_no_field(tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any) -> None:
    add_task_to(tasks, "rough", task_texts["rough"].replace("no_such_field", "'{{no_such_field}}'"))
    text = refusal(config_of(tasks, "rough"))
    assert text.startswith("task 'rough': cannot be loaded (UndefinedError: 'no_such_field' is undefined)")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"question": "q", "choices": ["a"', "ArrowInvalid: JSON parse error: Missing a comma or"),
        (
            '{"question": "\\ud83d", "answer": 0}',
            "ArrowInvalid: JSON parse error: The surrogate pair in string is invalid",
        ),
        ('{"question": "q", "choices": "a, b", "answer": 0}', "TypeError: Couldn't cast array of type string to List("),
    ],
)
def test_data_that_cannot_be_read_name_the_innermost_cause(tasks: Path, config_of: Any, line: str, cause: str) -> None:
    path = tasks / "data" / "test.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:9], line, *lines[10:]]) + "\n")
    text = refusal(config_of(tasks, "colours"))
    assert text.startswith("task 'colours': cannot be loaded (")
    assert f"; from {cause}" in text
    assert text.endswith("). Check its YAML and data files; offline, a hub data set must be in the cache.")


def test_an_include_path_that_is_no_folder(tasks: Path, config_of: Any) -> None:
    assert refusal(config_of(tasks / "none", "colours")) == (
        f"evaluate.include_path: '{tasks / 'none'}' is not a folder. Name a folder of task YAMLs."
    )


def test_shots_of_the_task_its_line_and_the_file(
    tasks: Path, config_of: Any, add_task_to: Any, task_texts: Any
) -> None:
    add_task_to(tasks, "own_zero", task_texts["colours"] + "num_fewshot: 0\n")
    add_task_to(tasks, "own_two", task_texts["colours"] + "num_fewshot: 2\n")

    def shots(name: Any, **options: Any) -> int:
        suite = TaskSuite.build(config_of(tasks, name, **options))
        return str(next(iter(suite.list_requests("search", None).values()))[0].args[0]).count("Question: train")

    assert shots("colours") == 0
    assert shots("own_two") == 2
    assert shots("own_two", num_fewshot=1) == 1
    assert shots("own_zero", num_fewshot=1) == 0  # as in lm-eval
    assert shots({"task": "own_zero", "num_fewshot": 1}, num_fewshot=3) == 1
