"""Tasks that draw at random: reproducible, as in lm-eval, and without a trace in the caller's generators."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.dummy import DummyLM
from lm_eval.tasks import TaskManager

from aftermix.evaluation import loading
from aftermix.evaluation.documents.generators import GeneratorStates, own_generators
from aftermix.evaluation.harness import TaskSuite

SHUFFLES = {
    "python": "k = list(range(4)); random.shuffle(k)",
    "numpy": "k = np.random.permutation(4).tolist()",
    "torch": "k = torch.randperm(4).tolist()",
}
CODE = """
import random
import numpy as np
import torch

def shuffle(rows):
    def one(row):
        {draw}
        return {{"choices": [row["choices"][i] for i in k], "answer": k.index(row["answer"])}}
    return rows.map(one)

def some(rows):
    return rows.shuffle().select(range(30))

def prompt(doc):
    return random.choice(["Question: ", "Say: ", "Tell me: "]) + doc["question"]

def guess(doc, results):
    return {{"acc": float(random.random() < 0.5)}}
"""


class GuessingModel(DummyLM):
    """The log-likelihood of a text is its length: a model that costs nothing."""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return [(-float(len(request.args[0]) * len(request.args[1]) % 7), False) for request in requests]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(name: str) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / name)

    return use


def add_drawing_task(tasks: Path, texts: dict[str, str], keys: str, *, draw: str = SHUFFLES["python"]) -> None:
    (tasks / "u.py").write_text(CODE.format(draw=draw))
    text = texts["colours"].replace("training_split: train\n", "").replace("fewshot_split: train\n", "")
    (tasks / "drawn.yaml").write_text(f"task: drawn\n{text}{keys}")


def draw_from_all() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 - the global generators


def list_arguments(suite: TaskSuite, split: str = "search") -> list[Any]:
    return [request.args for request in suite.list_requests(split, None)["drawn"]]  # type: ignore[arg-type]


def test_what_is_drawn_is_that_of_lm_eval(
    tasks: Path, config_of: Any, task_texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_drawing_task(tasks, task_texts, "process_docs: !function u.shuffle\ndoc_to_text: !function u.prompt\n")
    monkeypatch.chdir(tasks)
    suite = TaskSuite.build(config_of(tasks, "drawn"))
    mine = suite.evaluate(GuessingModel(), "search").items["drawn"]

    samples = {"drawn": [int(item.rpartition("/")[2]) for item in suite.tasks["drawn"].search]}
    results = lm_eval.simple_evaluate(
        model=GuessingModel(),
        tasks=["drawn"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        samples=samples,
        bootstrap_iters=0,
    )
    theirs = [float(sample["acc"]) for sample in results["samples"]["drawn"]]
    asked = [tuple(argument) for sample in results["samples"]["drawn"] for argument in sample["arguments"]]
    assert list_arguments(suite) == asked
    assert mine == theirs
    assert {context.partition(":")[0] for context, _ in asked} == {"Question", "Say", "Tell me"}


@pytest.mark.parametrize("kind", SHUFFLES)
def test_shuffled_options_are_the_same_whatever_the_cache_of_datasets_holds(
    kind: str, tasks: Path, config_of: Any, task_texts: Any, fresh_cache: Any
) -> None:
    add_drawing_task(tasks, task_texts, "process_docs: !function u.shuffle\n", draw=SHUFFLES[kind])
    config = config_of(tasks, "drawn")
    first = list_arguments(TaskSuite.build(config))

    # Another program may have drawn before, and `datasets` keeps what it drew.
    fresh_cache("other")
    with own_generators():
        draw_from_all()
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        manager._factory = loading._LocalFactory(meta=manager.metadata)
        kept = manager.load(["drawn"])["tasks"]["drawn"].task_docs["choices"]
    assert list_arguments(TaskSuite.build(config)) == first
    fresh_cache("none")
    suite = TaskSuite.build(config)
    assert list_arguments(suite) == first
    assert suite._leaves["drawn"]["drawn"].task_docs["choices"] != kept


def test_a_task_does_not_depend_on_the_tasks_before_it_nor_on_who_drew_before(
    tasks: Path, config_of: Any, task_texts: Any
) -> None:
    add_drawing_task(tasks, task_texts, "process_docs: !function u.some\n")
    (tasks / "other.yaml").write_text((tasks / "drawn.yaml").read_text().replace("task: drawn", "task: other"))
    alone = TaskSuite.build(config_of(tasks, "drawn"))
    draw_from_all()
    after = TaskSuite.build(config_of(tasks, "other", "drawn"))
    assert list_arguments(after) == list_arguments(alone)
    assert list_arguments(after, "test") == list_arguments(alone, "test")
    assert alone.count_items()["drawn"] == {"search": 8, "select": 10, "test": 12}


def test_scoring_that_draws_gives_every_candidate_the_same_draws(tasks: Path, config_of: Any, task_texts: Any) -> None:
    add_drawing_task(tasks, task_texts, "process_results: !function u.guess\n")
    suite = TaskSuite.build(config_of(tasks, "drawn", items={"search": 20, "select": 5}))
    first = suite.evaluate(GuessingModel(), "search").items
    random.random()
    assert suite.evaluate(GuessingModel(), "search").items == first
    assert set(first["drawn"]) == {0.0, 1.0}


def test_the_callers_generators_go_on_as_if_nothing_had_been_drawn(
    tasks: Path, config_of: Any, task_texts: Any
) -> None:
    add_drawing_task(tasks, task_texts, "process_docs: !function u.shuffle\ndoc_to_text: !function u.prompt\n")
    with own_generators():
        expected = draw_from_all()
        again = GeneratorStates.capture()
    with own_generators():
        suite = TaskSuite.build(config_of(tasks, "drawn"))
        suite.evaluate(GuessingModel(), "select")
        assert draw_from_all() == expected
        assert random.getstate() == again.python
    assert datasets.is_caching_enabled()


def test_generators_are_put_back_after_an_error() -> None:
    before = random.getstate()
    with pytest.raises(ZeroDivisionError), own_generators():
        random.sample([1 / 0], 1)
    assert random.getstate() == before
