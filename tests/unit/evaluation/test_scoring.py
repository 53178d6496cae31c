"""Scores of items: what counts as a number, and what a task's own code or the model's raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import SuiteScores, TaskSuite

Measure = Callable[..., SuiteScores]


@pytest.fixture
def measure(tasks: Path, model_a: Path, tokenizer_folder: Path, config_of: Any, add_task_to: Any) -> Measure:
    """Scores of a local task `own` with this YAML and this Python beside it, on the search items."""

    def run(yaml: str, python: str = "", **options: Any) -> SuiteScores:
        (tasks / "own.py").write_text(python)
        add_task_to(tasks, "own", yaml)
        config = config_of(tasks, {"task": "own", **options})
        suite = TaskSuite.build(config)
        engine = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config)
        return suite.evaluate(engine.lm, "search")

    return run


NUMBERS = {
    "a tensor": "torch.tensor(doc['answer'] / 4)",
    "a tensor of one element in bfloat16": "torch.tensor([doc['answer'] / 4], dtype=torch.bfloat16)",
    "a tensor of truth": "torch.tensor(doc['answer'] > 1)",
    "an array": "numpy.array([[doc['answer'] / 4]])",
    "a number of numpy": "numpy.float32(doc['answer'] / 4)",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_in_any_wrapping_is_a_score(measure: Measure, task_texts: Any, name: str) -> None:
    python = f"import numpy, torch\ndef score(doc, results):\n    return {{'acc': {NUMBERS[name]}}}\n"
    scores = measure(task_texts["colours"] + "process_results: !function own.score\n", python).items["own"]
    assert set(scores) == ({0.0, 1.0} if "truth" in name else {0.0, 0.25, 0.5, 0.75})
    assert all(type(score) is float for score in scores)


def test_an_error_of_the_scoring_names_the_item(measure: Measure, task_texts: Any) -> None:
    python = "def score(doc, results):\n    return {'acc': 1 / (doc['answer'] - 2)}\n"
    with pytest.raises(EvaluationError) as error:
        measure(task_texts["colours"] + "process_results: !function own.score\n", python)
    assert str(error.value).startswith("item 'own/")
    assert str(error.value).endswith(
        ": its answer cannot be scored (ZeroDivisionError: division by zero). "
        "Correct the task's metric, filter or `process_results`, or this document."
    )


def test_an_error_of_generation_names_the_task(measure: Measure, task_texts: Any) -> None:
    yaml = task_texts["write_colour"].replace("do_sample: false", "do_sample: false, no_such_option: 3")
    with pytest.raises(EvaluationError) as error:
        measure(yaml)
    assert str(error.value) == (
        "task 'own': its generation option 'no_such_option' is not known. Correct the task's `generation_kwargs`."
    )


def test_memory_that_runs_out_is_no_fault_of_the_task(
    tasks: Path, model_a: Path, tokenizer_folder: Path, config_of: Any
) -> None:
    config = config_of(tasks, "colours")
    suite = TaskSuite.build(config)
    engine = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config)

    def run_out(*_: Any) -> None:
        raise MemoryError

    engine.lm.model.register_forward_pre_hook(run_out)
    with pytest.raises(MemoryError):
        suite.evaluate(engine.lm, "search")
