"""Positions: those that were computed, by a count at the embedding, are those that were planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from safetensors.torch import load_file

from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.positions import count_request_positions
from aftermix.evaluation.suites.harness_suite import HarnessSuite
from aftermix.jobs.evaluator import ModelEvaluator

WRITE = {"task": "write_colour", "filter": "last_letter"}
CONTINUE = {"task": "continue_colour", "metric": "acc"}


@pytest.fixture
def evaluator_of(model_a: Path, tokenizer_folder: Path, tasks: Path, config_of: Any) -> Any:
    def open_evaluator(*names: Any, keep: bool = False, **options: Any) -> ModelEvaluator:
        config = config_of(tasks, *names, **options)
        engine = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config)
        evaluator = ModelEvaluator(engine, HarnessSuite.build(config), wants_answers=keep)
        evaluator.rehearse(config)  # asks once whether the model runs on trees, which is no part of a measurement
        return evaluator

    return open_evaluator


def count_at_embedding(evaluator: ModelEvaluator) -> int:
    """All positions that the model has computed so far."""
    return evaluator.engine.lm._counter.count


@pytest.fixture
def measure(model_a: Path) -> Any:
    tensors = load_file(model_a / "model.safetensors")
    return lambda evaluator, split: evaluator.evaluate(tensors.items(), split).tokens


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["colours"], {}),
        (["colours", CONTINUE], {"num_fewshot": 2}),
        (["colours"], {"batch_size": 1}),
        (["test_only", "colours"], {"batch_size": 64}),
    ],
)
def test_scored_requests_take_the_positions_that_are_planned(
    evaluator_of: Any, measure: Any, names: list[Any], options: dict[str, Any]
) -> None:
    evaluator = evaluator_of(*names, **options)
    for split in ("search", "select"):
        before, planned = count_at_embedding(evaluator), evaluator.count_positions(split)
        assert count_at_embedding(evaluator) == before  # no model was run
        first, again = (measure(evaluator, split) for _ in range(2))
        assert first == again == planned > 0
        assert count_at_embedding(evaluator) - before == first + again


def test_generated_answers_take_at_most_what_is_planned(evaluator_of: Any, measure: Any) -> None:
    evaluator = evaluator_of(WRITE, "colours")
    lm = evaluator.engine.lm
    requests = evaluator.suite.list_requests("search", lm)["write_colour"]
    batches = lm.find_generation_plan(requests).batches
    prompts = sum(batch.tokens_BT.numel() for batch in batches)
    planned = count_request_positions(lm, requests)
    assert planned == prompts + 12 * sum(len(batch.requests) for batch in batches)
    before, counted = lm.computed_positions, count_at_embedding(evaluator)
    lm.generate_until(requests)
    assert prompts <= lm.computed_positions - before <= planned
    assert count_at_embedding(evaluator) - counted == lm.computed_positions - before
    assert measure(evaluator, "search") <= evaluator.count_positions("search")


def test_right_answers_that_are_scored_beside_count_too(evaluator_of: Any, measure: Any) -> None:
    without, beside = (evaluator_of(WRITE, keep=keep) for keep in (False, True))
    references = beside.count_positions("search") - without.count_positions("search")
    measured = [measure(evaluator, "search") for evaluator in (without, beside)]
    assert measured[1] - measured[0] == references > 0


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_whole_texts_take_at_most_what_is_planned(evaluator_of: Any, batch_size: int) -> None:
    lm = evaluator_of("colours", batch_size=batch_size).engine.lm
    texts = ["what colour has the ball?", "the lamp and the tree " * 200, "the boat"]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    planned, before = count_request_positions(lm, requests), lm.computed_positions
    lm.loglikelihood_rolling(requests, disable_tqdm=True)
    assert 0.5 * planned < lm.computed_positions - before <= planned
