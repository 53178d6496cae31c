"""One metric key for a task, averaged over the documents that have it; groups by their own list: as lm-eval itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from aftermix.errors import AftermixError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import SuiteScores, TaskSuite

HARD = """
def best(results):
    lls = [each[0] for each in results]
    return max(range(len(lls)), key=lls.__getitem__)

def either(doc, results):
    right = float(best(results) == doc['answer'])
    return {'acc_hard': right} if len(doc['question']) % 3 == 0 else {'acc': right}

def both(doc, results):
    right = float(best(results) == doc['answer'])
    return {'acc': right, ('acc_hard' if len(doc['question']) % 3 == 0 else 'acc_easy'): 1 - right}

def sparse(doc, results):
    return {'acc': float(best(results) == doc['answer']) if doc['answer'] else float('nan')}

def rare(doc, results):
    return {'acc_rare': 1.0} if doc['question'].startswith('test 7:') else {'acc': 1.0}
"""
SHARES = """
def share(prediction, reference):
    return len(set(prediction) & set(reference)) / max(1, len(set(prediction)))

def pass_at_k(references, predictions, k=None):
    tries = predictions[0] if isinstance(predictions[0], list) else predictions
    shares = [share(each, references[0]) for each in tries]
    return {f'pass@{each}': max(shares[:each]) for each in k}
"""
COUNTS = {"search": 8, "select": 10, "test": 22}
TRIES = """repeats: 3
metric_list:
  - {{metric: !function own.pass_at_k, aggregation: mean, higher_is_better: true, k: {k}}}
filter_list:
  - {{name: all, filter: [{{function: take_first_k, k: 3}}]}}
"""


class World:
    """A folder of tasks and a tiny model, to be scored by aftermix and by lm-eval."""

    def __init__(self, folder: Path, model: Path, tokenizer: Path, config_of: Any, texts: dict[str, str]) -> None:
        self.folder, self.model, self.tokenizer, self.config_of, self.texts = folder, model, tokenizer, config_of, texts

    def add(self, name: str, yaml: str, python: str = "") -> None:
        (self.folder / f"{name}.yaml").write_text(f"task: {name}\n{yaml}")
        if python:
            (self.folder / "own.py").write_text(python)

    def suite(self, task: str | dict[str, Any], **options: Any) -> TaskSuite:
        return TaskSuite.build(self.config_of(self.folder, task, **options))

    def refusal(self, task: str | dict[str, Any], **options: Any) -> str:
        with pytest.raises(AftermixError) as error:
            self.suite(task, **options)
        return str(error.value)

    def measure(self, task: str | dict[str, Any], **options: Any) -> tuple[TaskSuite, SuiteScores, Any]:
        """The suite, aftermix's scores on the search items, and lm-eval's results on the same."""
        config = self.config_of(self.folder, task, **options)
        suite = TaskSuite.build(config)
        engine = HuggingFaceEngine.open(self.model, tokenizer_folder=self.tokenizer, config=config)
        measured = suite.evaluate(engine.lm, "search")

        samples: dict[str, list[int]] = {}
        (name,) = suite.tasks
        for item in suite.tasks[name].search:
            leaf, _, number = item.rpartition("/")
            samples.setdefault(leaf, []).append(int(number))
        plain = HFLM(pretrained=engine.lm.model, tokenizer=engine.lm.tokenizer, batch_size=4, backend="causal")
        results = lm_eval.simple_evaluate(
            model=plain,
            tasks=[name],
            task_manager=TaskManager(include_path=str(self.folder), include_defaults=False),
            samples=samples,
            bootstrap_iters=0,
        )
        assert results is not None
        return suite, measured, results


@pytest.fixture
def world(
    tasks: Path, model_a: Path, tokenizer_folder: Path, config_of: Any, task_texts: Any, monkeypatch: pytest.MonkeyPatch
) -> World:
    monkeypatch.chdir(tasks)  # for lm-eval itself, which looks for data files here
    return World(tasks, model_a, tokenizer_folder, config_of, task_texts)


@pytest.mark.parametrize(("function", "metric"), [("either", "acc_hard"), ("both", "acc_hard"), ("both", "acc_easy")])
def test_a_key_of_some_documents_is_averaged_over_those(world: World, function: str, metric: str) -> None:
    """`acc_easy` and `acc_hard` stand in no `metric_list`: lm-eval takes their mean all the same."""
    world.add("partial", world.texts["colours"] + f"process_results: !function own.{function}\n", HARD)
    suite, measured, results = world.measure({"task": "partial", "metric": metric}, items={"search": 24, "select": 8})
    values = [value for value in measured.items["partial"] if value is not None]
    assert 0 < len(values) < 24 == len(measured.items["partial"])
    assert str(suite.primary["partial"]) == f"{metric},none"
    assert 0 < measured.scores["partial"] < 1
    assert measured.scores["partial"] == pytest.approx(results["results"]["partial"][f"{metric},none"], abs=1e-12)


def test_a_document_without_the_metric_lends_it_no_other_value(world: World) -> None:
    world.add("partial", world.texts["colours"] + "process_results: !function own.either\n", HARD)
    _, measured, results = world.measure("partial", items={"search": 24, "select": 8})
    assert None in measured.items["partial"]
    assert measured.scores["partial"] == pytest.approx(results["results"]["partial"]["acc,none"], abs=1e-12)


def test_nan_is_no_value_where_lm_eval_takes_nanmean(world: World) -> None:
    yaml = world.texts["colours"].replace("metric: acc, aggregation: mean", "metric: acc, aggregation: nanmean")
    world.add("sparse", yaml + "process_results: !function own.sparse\n", HARD)
    _, measured, results = world.measure("sparse", items={"search": 24, "select": 8})
    assert measured.items["sparse"].count(None) == 6
    assert measured.scores["sparse"] == pytest.approx(results["results"]["sparse"]["acc,none"], abs=1e-12)


@pytest.mark.parametrize(
    ("k", "asked", "settled"),
    [
        ("[1, 3]", "pass@3", "pass@3"),
        ("[1, 3]", "pass@1", "pass@1"),
        ("[2]", None, "pass@2"),
        ("[2]", "pass_at_k", "pass@2"),
    ],
)
def test_a_function_of_several_values_is_named_by_each(world: World, k: str, asked: str | None, settled: str) -> None:
    yaml = (
        world.texts["write_colour"]
        .partition("metric_list:")[0]
        .replace("do_sample: false", "do_sample: true, temperature: 0.8")
    )
    world.add("tries", yaml + TRIES.format(k=k), SHARES)
    suite, measured, _ = world.measure({"task": "tries", "metric": asked} if asked else "tries")
    assert str(suite.primary["tries"]) == f"{settled},all"
    assert measured.items["tries"] == measured.metrics["tries"][f"{settled},all"]
    assert 0 < measured.scores["tries"] < 1


def test_which_of_several_values_must_be_said(world: World) -> None:
    yaml = world.texts["write_colour"].partition("metric_list:")[0]
    world.add("tries", yaml + TRIES.format(k="[1, 3]"), SHARES)
    assert world.refusal("tries") == (
        "task 'tries': metric 'pass_at_k' gives several values for each item. Set `metric` to one of: pass@1, pass@3."
    )
    assert world.refusal({"task": "tries", "metric": "pass@2"}) == (
        "task 'tries': has no metric 'pass@2'. Set `metric` to one of: pass@1, pass@3. Did you mean 'pass@3'?"
    )


def test_a_key_that_no_document_has_is_refused_before_a_model_is_loaded(world: World) -> None:
    world.add("partial", world.texts["colours"] + "process_results: !function own.both\n", HARD)
    assert world.refusal({"task": "partial", "metric": "acc_hrad"}) == (
        "task 'partial': has no metric 'acc_hrad'. Set `metric` to one of: acc, acc_hard, acc_easy. "
        "Did you mean 'acc_hard'?"
    )


def test_a_key_that_no_item_of_a_split_has_is_refused_too(world: World) -> None:
    world.add("rare", world.texts["colours"] + "process_results: !function own.rare\n", HARD)
    text = world.refusal({"task": "rare", "metric": "acc_rare"})
    split = text.split(" items has")[0].split()[-1]
    assert text == (
        f"task 'rare': none of its {COUNTS[split]} {split} items has a value of metric "
        f"'acc_rare'. Name another metric, or raise `evaluate.items.{split}`."
    )


def test_what_only_a_run_can_tell_is_told_by_it(world: World) -> None:
    """Code of the task that made-up answers do not satisfy says nothing about its keys before it is run."""
    python = "def score(doc, results):\n    assert results[0][0] != -1.0\n    return {'acc': 1.0}\n"
    world.add("picky", world.texts["colours"] + "process_results: !function own.score\n", python)
    with pytest.raises(AftermixError) as error:
        world.measure({"task": "picky", "metric": "acc_hard"})
    assert str(error.value) == (
        "task 'picky': none of these 8 items has a value of metric 'acc_hard'; its scoring returned acc. "
        "Name another metric, or give the split more items."
    )


def test_lower_is_better_by_lm_evals_own_registry_for_a_key_that_is_not_declared(world: World) -> None:
    python = "def score(doc, results):\n    return {'acc': 1.0, 'brier_score': 0.3}\n"
    world.add("brier", world.texts["colours"] + "process_results: !function own.score\n", python)
    assert world.refusal({"task": "brier", "metric": "brier_score"}) == (
        "task 'brier': expected a metric that is a mean over items with higher better, found 'brier_score': lower is "
        "better. Set `metric` to one of: acc."
    )


GROUP = "group: duo\ntask: [big, small]\naggregate_metric_list:\n  - {{metric: {metric}, aggregation: mean, {more}}}\n"


def add_members(world: World, *, small: str = "", python: str = "") -> None:
    """A member of 40 documents and one of 12, which are 10 and 3 of 13 search items."""
    world.add("big", world.texts["colours"] + small, python)
    world.add("small", world.texts["colours"].replace("test_split: test", "test_split: train") + small)


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
@pytest.mark.parametrize("by_size", ["weight_by_size: false", "weight_by_size: true", "filter_list: none"])
def test_a_group_counts_as_its_own_list_says(world: World, metric: str, by_size: str) -> None:
    add_members(world)
    (world.folder / "duo.yaml").write_text(GROUP.format(metric=metric, more=by_size))
    suite, measured, results = world.measure("duo", items={"search": 26, "select": 8})
    assert str(suite.primary["duo"]) == f"{metric},none"
    assert measured.scores["duo"] == pytest.approx(results["groups"]["duo"][f"{metric},none"], abs=1e-12)
    plain = sum(measured.items["duo"]) / 26
    assert (abs(measured.scores["duo"] - plain) < 1e-12) == ("false" not in by_size)


def test_a_group_within_a_group_counts_by_its_leaves(world: World) -> None:
    add_members(world)
    world.add("other", world.texts["colours"])
    (world.folder / "duo.yaml").write_text(GROUP.format(metric="acc", more="weight_by_size: true"))
    (world.folder / "trio.yaml").write_text(
        GROUP.format(metric="acc", more="weight_by_size: false")
        .replace("[big, small]", "[duo, other]")
        .replace("duo\n", "trio\n", 1)
    )
    _, measured, results = world.measure("trio", items={"search": 40, "select": 8})
    assert measured.scores["trio"] == pytest.approx(results["groups"]["trio"]["acc,none"], abs=1e-12)


@pytest.mark.parametrize("by_size", ["false", "true"])
def test_a_group_of_a_metric_that_only_some_documents_have(world: World, by_size: str) -> None:
    """lm-eval weighs a member by the most values of any of its metrics."""
    add_members(world, small="process_results: !function own.either\n", python=HARD)
    (world.folder / "duo.yaml").write_text(GROUP.format(metric="acc_hard", more=f"weight_by_size: {by_size}"))
    _, measured, results = world.measure("duo", items={"search": 39, "select": 8})
    assert None in measured.items["duo"]
    assert measured.scores["duo"] == pytest.approx(results["groups"]["duo"]["acc_hard,none"], abs=1e-12)


def test_a_member_without_the_metric_is_left_out_and_it_is_said(world: World) -> None:
    world.add("big", world.texts["colours"])
    world.add("small", world.texts["write_colour"])
    (world.folder / "duo.yaml").write_text(GROUP.format(metric="acc", more="weight_by_size: false"))
    suite, measured, results = world.measure("duo", items={"search": 13, "select": 8})
    assert {item.rpartition("/")[0] for item in suite.tasks["duo"].search} == {"big"}
    assert suite.tasks["duo"].note == "'small' without metric 'acc': not counted, as in lm-eval's own group"
    assert measured.scores["duo"] == pytest.approx(results["groups"]["duo"]["acc,none"], abs=1e-12)


def test_a_metric_that_is_not_in_the_groups_list_is_a_mean_over_items(world: World) -> None:
    add_members(world)
    (world.folder / "duo.yaml").write_text(GROUP.format(metric="acc", more="weight_by_size: false"))
    _, measured, results = world.measure({"task": "duo", "metric": "acc_norm"}, items={"search": 26, "select": 8})
    assert "acc_norm,none" not in results["groups"]["duo"]
    assert type(measured.items["duo"]) is list
    assert measured.scores["duo"] == pytest.approx(sum(measured.items["duo"]) / 26)


def test_item_scores_of_a_group_are_those_of_its_items(world: World) -> None:
    add_members(world)
    (world.folder / "duo.yaml").write_text(GROUP.format(metric="acc", more="weight_by_size: false"))
    suite, measured, results = world.measure("duo", items={"search": 26, "select": 8})
    by_item = {
        f"{leaf}/{sample['doc_id']}": sample["acc"] for leaf in ("big", "small") for sample in results["samples"][leaf]
    }
    assert list(measured.items["duo"]) == [by_item[item] for item in suite.tasks["duo"].search]
    assert json.loads(json.dumps(measured.items["duo"])) == list(measured.items["duo"])
