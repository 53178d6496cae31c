"""Generation settings as vLLM's sampling parameters."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.generation import GenerationSettings
from aftermix.evaluation.engines.vllm.sampling import build_sampling_options


def build(options: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    settings = GenerationSettings(("Question:",), 24, options)
    return build_sampling_options(settings, GenerationConfig(**defaults))


def test_a_greedy_answer_takes_no_part_in_sampling() -> None:
    found = build({"do_sample": False}, temperature=0.6, top_p=0.9, eos_token_id=[1, 7])
    assert found == {
        "max_tokens": 24,
        "min_tokens": 0,
        "stop": ["Question:"],
        "stop_token_ids": [1, 7],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "temperature": 0.0,
    }


def test_what_the_task_leaves_open_is_the_models() -> None:
    found = build({"do_sample": True, "top_p": 0.5}, temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1)
    assert {key: found[key] for key in ("temperature", "top_p", "top_k", "repetition_penalty")} == {
        "temperature": 0.6,
        "top_p": 0.5,
        "top_k": 20,
        "repetition_penalty": 1.1,
    }
    assert build({"do_sample": False}, eos_token_id=1)["stop_token_ids"] == [1]


@pytest.mark.parametrize(
    ("options", "defaults", "named"),
    [
        ({"do_sample": False, "num_beams": 4}, {}, "num_beams: 4"),
        ({"do_sample": False}, {"no_repeat_ngram_size": 3}, "no_repeat_ngram_size: 3"),
        ({"do_sample": False, "diversity_penalty": 0.5}, {}, "diversity_penalty: 0.5"),
    ],
)
def test_an_option_that_vllm_lacks_is_refused(options: dict[str, Any], defaults: dict[str, Any], named: str) -> None:
    with pytest.raises(EvaluationError) as refused:
        build(options, **defaults)
    assert str(refused.value).startswith(f"generated answers: their generation option '{named}' is none of vLLM's.")
