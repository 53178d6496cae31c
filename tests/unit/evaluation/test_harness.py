"""The suite against plain lm-eval on the same items, and against each trap of lm-eval in one living process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file

from aftermix.errors import EvaluationError
from aftermix.evaluation import loading
from aftermix.evaluation.engines.hf import HuggingFaceEngine, open_planning_model
from aftermix.evaluation.harness import SuiteScores, TaskSuite
from aftermix.evaluation.items import SPLITS

WRITE = {"task": "write_colour", "filter": "last_letter"}
CONTINUE = {"task": "continue_colour", "metric": "acc"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def opened(tokenizer_folder: Path) -> Any:
    def open_engine(model: Path, config: Any) -> HuggingFaceEngine:
        return HuggingFaceEngine.open(model, tokenizer_folder=tokenizer_folder, config=config)

    return open_engine


def plain_lm_eval(suite: TaskSuite, engine: HuggingFaceEngine, folder: Path, leaf: str, **options: Any) -> Any:
    """lm-eval itself, with its own model class, on the search items of a task of one leaf."""
    samples = {leaf: [int(item.rpartition("/")[2]) for item in suite.tasks[leaf].search]}
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    plain = HFLM(
        pretrained=engine.lm.model, tokenizer=engine.lm.tokenizer, batch_size=4, backend="causal", max_length=512
    )
    results = lm_eval.simple_evaluate(
        model=plain, tasks=[leaf], task_manager=manager, samples=samples, bootstrap_iters=0, **options
    )
    assert results is not None
    return results


def by_document(results: Any, leaf: str, metric: str, filter_name: str) -> list[float]:
    kept = [sample for sample in results["samples"][leaf] if sample["filter"] == filter_name]
    return [float(sample[metric]) for sample in sorted(kept, key=lambda sample: sample["doc_id"])]


@pytest.mark.parametrize(("shots", "chat"), [(0, False), (2, False), (2, True)])
def test_multiple_choice_scores_are_those_of_lm_eval(
    tasks: Path, model_a: Path, opened: Any, config_of: Any, monkeypatch: pytest.MonkeyPatch, shots: int, chat: bool
) -> None:
    monkeypatch.chdir(tasks)  # for lm-eval itself, which looks for data files here
    config = config_of(tasks, "colours", num_fewshot=shots, apply_chat_template=chat, items={"search": 20, "select": 5})
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    measured = suite.evaluate(engine.lm, "search")
    results = plain_lm_eval(suite, engine, tasks, "colours", num_fewshot=shots, apply_chat_template=chat)
    assert measured.items["colours"] == by_document(results, "colours", "acc", "none")
    assert measured.metrics["colours"]["acc_norm,none"] == by_document(results, "colours", "acc_norm", "none")
    assert 0 < measured.scores["colours"] < 1
    assert measured.scores["colours"] == pytest.approx(results["results"]["colours"]["acc,none"])


def test_log_likelihoods_are_those_of_lm_eval(
    tasks: Path, model_a: Path, opened: Any, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tasks)
    config = config_of(tasks, CONTINUE)
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    measured = suite.evaluate(engine.lm, "search")
    results = plain_lm_eval(suite, engine, tasks, "continue_colour")
    expected = by_document(results, "continue_colour", "perplexity", "none")
    assert np.allclose(measured.metrics["continue_colour"]["perplexity,none"], expected, atol=2e-4)


@pytest.mark.parametrize("shots", [1])
def test_generated_answers_and_their_filters_are_those_of_lm_eval(
    tasks: Path, model_a: Path, opened: Any, config_of: Any, monkeypatch: pytest.MonkeyPatch, shots: int
) -> None:
    monkeypatch.chdir(tasks)
    config = config_of(tasks, WRITE, num_fewshot=shots, items={"search": 24, "select": 5})
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    answers = engine.lm.generate_until(suite.list_requests("search", engine.lm)["write_colour"])
    measured = suite.evaluate(engine.lm, "search")
    results = plain_lm_eval(suite, engine, tasks, "write_colour", num_fewshot=shots)
    by_item = {s["doc_id"]: s["resps"][0][0] for s in results["samples"]["write_colour"]}
    assert answers == [by_item[number] for number in sorted(by_item)]
    assert len(set(answers)) > 3
    for name in ("strict", "last_letter"):
        expected = by_document(results, "write_colour", "exact_match", name)
        assert measured.metrics["write_colour"][f"exact_match,{name}"] == expected
    assert measured.items["write_colour"] == measured.metrics["write_colour"]["exact_match,last_letter"]
    assert 0 < measured.scores["write_colour"] < 1


def test_a_second_candidate_never_sees_the_first_ones_answers(
    tasks: Path, model_a: Path, model_b: Path, opened: Any, config_of: Any
) -> None:
    config = config_of(tasks, "colours", WRITE, CONTINUE)
    fresh = {
        folder: TaskSuite.build(config).evaluate(opened(folder, config).lm, "search") for folder in (model_a, model_b)
    }
    assert fresh[model_a].metrics != fresh[model_b].metrics
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    order = [model_a, model_b, model_a, model_b, model_b]
    for folder in order:
        engine.load(load_file(folder / "model.safetensors").items())
        assert suite.evaluate(engine.lm, "search") == fresh[folder]  # to the bit, log-likelihoods included


def test_no_answer_is_left_in_the_requests(tasks: Path, model_a: Path, opened: Any, config_of: Any) -> None:
    config = config_of(tasks, "colours")
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    suite.evaluate(engine.lm, "search")
    asked = suite.list_requests("search", engine.lm)["colours"]
    assert len(asked) == 4 * 8
    assert all(instance.resps == [] and instance.filtered_resps == {} for instance in asked)


def test_lm_evals_answer_cache_is_refused(
    tasks: Path, model_a: Path, opened: Any, config_of: Any, tmp_path: Path
) -> None:
    config = config_of(tasks, "colours")
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    with pytest.raises(EvaluationError, match="wrapped in lm-eval's answer cache"):
        suite.evaluate(CachingLM(engine.lm, str(tmp_path / "cache.db")), "search")


def prompts(suite: TaskSuite, task: str) -> dict[str, list[str]]:
    return {split: [request.args[0] for request in suite.list_requests(split, None)[task]] for split in SPLITS}


def test_prompts_depend_on_nothing_but_the_task_and_its_items(
    tasks: Path, model_a: Path, opened: Any, config_of: Any
) -> None:
    config = config_of(tasks, "colours", num_fewshot=3)
    first = TaskSuite.build(config)
    first.evaluate(opened(model_a, config).lm, "search")
    other = TaskSuite.build(config_of(tasks, WRITE, "colours", num_fewshot=3))
    backwards = {split: [r.args[0] for r in other.list_requests(split, None)["colours"]] for split in reversed(SPLITS)}
    assert prompts(first, "colours") == backwards
    assert prompts(first, "colours")["search"][0].count("Question: train") == 3


@pytest.mark.parametrize("name", ["same_split", "test_only"])
def test_examples_from_the_evaluated_split_are_never_scored(tasks: Path, config_of: Any, name: str) -> None:
    suite = TaskSuite.build(config_of(tasks, name, num_fewshot=2))
    scored = {item.rpartition("/")[2] for split in SPLITS for item in suite.tasks[name].of(split)}
    shown = set()
    for texts in prompts(suite, name).values():
        for text in texts:
            numbers = re.findall(r"Question: test (\d+):", text)
            assert len(numbers) == 3
            assert numbers[-1] in scored
            shown |= set(numbers[:-1])
    assert shown
    assert not shown & scored
    assert len(scored) == 40 - 4
    assert sum(suite.count_items()[name].values()) == 36
    assert suite.tasks[name].note == "4 items are few-shot examples and not scored"


def test_only_the_items_of_the_split_are_run(tasks: Path, model_a: Path, opened: Any, config_of: Any) -> None:
    config = config_of(tasks, "colours", CONTINUE)
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    for split, count in (("select", 10), ("search", 8), ("test", 22)):
        measured = suite.evaluate(engine.lm, split)
        assert {task: len(values) for task, values in measured.items.items()} == {
            "colours": count,
            "continue_colour": count,
        }
        alone = suite.count_tokens(split, engine.lm)
        asked = suite.list_requests(split, engine.lm)
        # The two tasks share rows, so prompts; together a tree may pay where it does not for one of them.
        assert min(alone.values()) <= measured.tokens < sum(alone.values())
        assert measured.tokens == engine.lm.count_request_tokens([*asked["colours"], *asked["continue_colour"]])


def test_a_group_is_one_task_of_all_its_leaves_items(tasks: Path, model_a: Path, opened: Any, config_of: Any) -> None:
    config = config_of(tasks, {"task": "both", "metric": "acc"}, items={"search": 20, "select": 20})
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    items = suite.tasks["both"]
    assert (len(items.search), len(items.test)) == (20, 40)
    leaves = [item.rpartition("/")[0] for item in items.search]
    assert leaves == ["colours"] * 10 + ["continue_colour"] * 10
    assert len(suite.evaluate(engine.lm, "search").items["both"]) == 20


def test_scores_are_means_over_items() -> None:
    measured = SuiteScores(items={"a": [1.0, 0.0, 0.0, 1.0], "b": [0.5]}, metrics={}, tokens=0)
    assert measured.scores == {"a": 0.5, "b": 0.5}


def test_tokens_are_planned_without_reading_a_weight(
    tasks: Path, model_a: Path, tokenizer_folder: Path, opened: Any, config_of: Any
) -> None:
    config = config_of(tasks, "colours", WRITE, num_fewshot=1)
    suite = TaskSuite.build(config)
    planned = suite.count_tokens(
        "select", open_planning_model(model_a, tokenizer_folder=tokenizer_folder, config=config)
    )
    assert planned == suite.count_tokens("select", opened(model_a, config).lm)
    # Beginnings count once; an answer counts at its limit.
    assert planned["write_colour"] > planned["colours"] > 10 * 12


def test_long_prompts_are_cut_on_the_left_and_counted(tasks: Path, model_a: Path, opened: Any, config_of: Any) -> None:
    config = config_of(tasks, "colours", WRITE, num_fewshot=2, max_length=48)
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    assert suite.evaluate(engine.lm, "search").truncated == 8 * 4 + 8


def test_nothing_is_printed_or_logged(
    tasks: Path, model_a: Path, opened: Any, config_of: Any, capfd: Any, caplog: Any
) -> None:
    config = config_of(tasks, "colours", WRITE, num_fewshot=1)
    suite, engine = TaskSuite.build(config), opened(model_a, config)
    suite.evaluate(engine.lm, "search")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_local_tasks_alone_never_read_the_built_in_index(
    tasks: Path, config_of: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    class Recorded(TaskManager):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            asked.append(options["include_defaults"])
            super().__init__(**{**options, "include_defaults": False})

    monkeypatch.setattr(loading, "TaskManager", Recorded)
    monkeypatch.chdir(tmp_path)
    TaskSuite.build(config_of(tasks, {"task": "both", "metric": "acc"}))
    assert asked == [False]
    (tasks / "mixed.yaml").write_text("group: mixed\ntask: [colours, hellaswag]\n")
    with pytest.raises(EvaluationError):
        TaskSuite.build(config_of(tasks, "mixed"))
    assert asked == [False, False, True]


@pytest.mark.slow
def test_an_unknown_task_is_refused_with_the_names_that_come_close(tasks: Path, config_of: Any) -> None:
    with pytest.raises(Exception, match="2 problems") as error:
        TaskSuite.build(config_of(tasks, "hellaswagg", "colour"))
    text = str(error.value)
    assert f"1. evaluate.tasks: there is no task 'hellaswagg' in lm-eval or in {tasks}. Did you mean hellaswag" in text
    assert "there is no task 'colour'" in text
    assert "colours" in text
