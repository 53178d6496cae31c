"""A look at the tasks before anything is measured: cut prompts, first items, ranges, options that clash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from aftermix.config import EvaluateConfig
from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.generation import refuse_clashing_options
from aftermix.evaluation.engines.hf import HuggingFaceEngine, open_planning_model
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.rehearsal import count_cut_prompts, find_largest_scores, score_first_items


@pytest.fixture
def opened(tokenizer_folder: Path) -> Any:
    """A function: the live model in a folder for a configuration."""
    return lambda folder, config: HuggingFaceEngine.open(folder, tokenizer_folder=tokenizer_folder, config=config)


@pytest.fixture
def own_task(tasks: Path, config_of: Any, add_task_to: Any) -> Any:
    """A function: the configuration of `colours` beside a local task `own` of this YAML and Python."""

    def build(yaml: str, python: str = "", **options: Any) -> Any:
        (tasks / "own.py").write_text(python)
        add_task_to(tasks, "own", yaml)
        return config_of(tasks, "colours", {"task": "own"}, **options)

    return build


def test_prompts_that_are_cut_are_counted_by_task_and_split_without_weights(
    tasks: Path, model_a: Path, tokenizer_folder: Path, opened: Any, config_of: Any
) -> None:
    config = config_of(tasks, "colours", "write_colour", num_fewshot=2, max_length=48)
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    items = suite.count_items()
    expected = {
        "colours": {split: 4 * count for split, count in items["colours"].items()},
        "write_colour": items["write_colour"],
    }
    planning = open_planning_model(model_a, tokenizer_folder=tokenizer_folder, config=config)
    assert count_cut_prompts(suite, planning) == count_cut_prompts(suite, engine.lm) == expected
    assert suite.evaluate(engine.lm, "search").truncated == sum(of["search"] for of in expected.values())


def test_prompts_that_fit_are_not_listed(tasks: Path, model_a: Path, opened: Any, config_of: Any) -> None:
    config = config_of(tasks, "colours", "write_colour", num_fewshot=0)
    assert count_cut_prompts(TaskSuite.build(config), opened(model_a, config).lm) == {}


def test_a_split_that_was_scored_is_counted_by_its_plan(
    tasks: Path, model_a: Path, opened: Any, config_of: Any
) -> None:
    for options, cut in (({"num_fewshot": 0}, 0), ({"num_fewshot": 2, "max_length": 48}, 4)):
        config = config_of(tasks, "colours", **options)
        suite, lm = TaskSuite.build(config), opened(model_a, config).lm
        suite.evaluate(lm, "search")
        plans = len(lm._plans)
        count = cut * suite.count_items()["colours"]["search"]
        assert count_cut_prompts(suite, lm, splits=("search",)) == ({"colours": {"search": count}} if cut else {})
        assert len(lm._plans) == plans


def test_first_items_are_scored_and_leave_no_trace(tasks: Path, model_a: Path, opened: Any, config_of: Any) -> None:
    config = config_of(tasks, "colours", "write_colour", {"task": "continue_colour", "metric": "acc"})
    untouched = TaskSuite.build(config).evaluate(opened(model_a, config).lm, "search")
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    score_first_items(suite, engine.lm)
    assert engine.lm.forwarded_tokens > 0
    assert suite.evaluate(engine.lm, "search") == untouched


@pytest.mark.parametrize(
    ("yaml", "python", "message"),
    [
        (
            "process_results: !function own.score\n",
            "def score(doc, results):\n    raise KeyError('gold')\n",
            "KeyError",
        ),
        ('doc_to_choice: "{{choices + [question * 99]}}"\n', "", "expected 1 to 512 tokens, found"),
    ],
)
def test_what_cannot_be_scored_is_found_at_its_item(
    yaml: str, python: str, message: str, own_task: Any, task_texts: Any, model_a: Path, opened: Any
) -> None:
    text = task_texts["colours"].replace('doc_to_choice: "{{choices}}"\n', "") if "choice" in yaml else None
    config = own_task((text or task_texts["colours"]) + yaml, python)
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    with pytest.raises(EvaluationError) as error:
        score_first_items(suite, engine.lm)
    assert f"item '{suite.tasks['own'].search[0]}'" in str(error.value)
    assert message in str(error.value)


def test_the_scale_of_a_metric_shows_in_right_answers(
    own_task: Any, task_texts: Any, model_a: Path, opened: Any
) -> None:
    python = "def score(doc, results):\n    return {'acc': 100.0}\n"
    config = own_task(task_texts["colours"] + "process_results: !function own.score\n", python)
    assert find_largest_scores(TaskSuite.build(config), opened(model_a, config).lm) == {"colours": 1.0, "own": 100.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "num_return_sequences": 3}, "its generation options clash ("),
        ({"do_sample": False, "num_return_sequences": 2}, "its generation options clash ("),
        ({"temprature": 0.5}, "its generation option 'temprature' is not known"),
    ],
)
def test_generation_options_that_cannot_hold_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError) as error:
        refuse_clashing_options(options, task="t")
    assert str(error.value).startswith(f"task 't': {message}")
    assert str(error.value).endswith("Correct the task's `generation_kwargs`.")


def test_usual_generation_options_reach_the_model(model_a: Path, opened: Any) -> None:
    usual = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.1}
    lm = opened(model_a, EvaluateConfig.model_validate({"tasks": ["unused"], "device": "cpu"})).lm
    given = {**usual, "until": ["."], "max_gen_toks": 7}
    settings = lm._settle_generation(Instance("generate_until", {}, ("a text", given), 0))
    assert (settings.options, settings.max_new_tokens) == (usual, 7)
    assert settings.stops[0] == "."

    greedy = {**given, "do_sample": False, "top_p": 1.0}
    settings = lm._settle_generation(Instance("generate_until", {}, ("a text", greedy), 0))
    assert settings.options == {"do_sample": False, "top_p": 1.0, "repetition_penalty": 1.1}


def test_a_template_that_asks_for_today_is_given_the_day_of_the_file(
    tasks: Path, model_a: Path, tokenizer_folder: Path, config_of: Any, tmp_path: Path
) -> None:
    dated = shutil.copytree(tokenizer_folder, tmp_path / "dated")
    template = (dated / "chat_template.jinja").read_text()
    (dated / "chat_template.jinja").write_text("On {{ strftime_now('%d %B %Y') }}: " + template)

    def read_prompt(date: str) -> str:
        config = config_of(tasks, "colours", apply_chat_template=True, date=date)
        suite = TaskSuite.build(config)
        engine = HuggingFaceEngine.open(model_a, tokenizer_folder=dated, config=config)
        prompt: str = suite.list_requests("search", engine.lm)["colours"][0].args[0]
        return prompt

    assert read_prompt("2024-07-26").startswith("On 26 July 2024: ")
    assert read_prompt("2026-11-28").startswith("On 28 November 2026: ")
