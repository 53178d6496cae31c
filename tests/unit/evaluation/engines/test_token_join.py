"""Contexts and continuations whose tokens have no cut between them, held against transformers' own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.live_model import HarnessModel


@pytest.fixture
def lm(tasks: Path, model_a: Path, tokenizer_folder: Path, config_of: Any) -> HarnessModel:
    config = config_of(tasks, "colours")
    return HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config).lm


@pytest.fixture
def expect(model_a: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(model_a, dtype=torch.float32).eval()

    def compute(context: list[int], continuation: list[int]) -> float:
        tokens = torch.tensor([[*context, *continuation]])
        with torch.no_grad():
            chosen = model(tokens).logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]
        return float(chosen[len(context) - 1 :].sum())

    return compute


def score(lm: HarnessModel, *pairs: tuple[str, str]) -> list[float]:
    requests = [Instance("loglikelihood", {}, pair, 0, ("t", 0, 1)) for pair in pairs]
    return [value for value, _ in lm.loglikelihood(requests)]


@pytest.mark.parametrize(
    ("context", "continuation"), [("the col", "our"), ("what co", "lour"), ("the bal", "l"), ("a lam", "p")]
)
def test_a_token_that_spans_the_join_leaves_the_continuation_by_itself(
    lm: HarnessModel, expect: Any, tokenizer_folder: Path, context: str, continuation: str
) -> None:
    encode = AutoTokenizer.from_pretrained(tokenizer_folder).encode
    assert len(encode(context + continuation)) <= len(encode(context))
    alone = expect(encode(context), encode(continuation))
    others = ("the colour", " red"), ("the", " ball")  # in one batch with pairs that are cut
    assert score(lm, (context, continuation), *others)[0] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(
    ("context", "continuation"), [(" ", "red"), ("\n", "the ball"), (" \n ", "green"), ("", "red")]
)
def test_a_context_of_white_space_is_as_an_empty_one_with_the_space_behind_it(
    lm: HarnessModel, expect: Any, tokenizer_folder: Path, context: str, continuation: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    expected = expect([tokenizer.bos_token_id], tokenizer.encode(context + continuation))
    assert score(lm, (context, continuation), ("the", " ball"))[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("context", ["the ball", ""])
def test_an_empty_continuation_is_refused(lm: HarnessModel, context: str) -> None:
    with pytest.raises(EvaluationError, match=r"continuation '': expected 1 to 512 tokens, found 0"):
        score(lm, (context, ""))
    request = Instance("loglikelihood", doc={}, arguments=(context, ""), idx=0, metadata=("colours", 3, 1))
    with pytest.raises(EvaluationError, match=r"^task 'colours', item 3: continuation '': expected 1 to 512 tokens"):
        lm.loglikelihood([request])
