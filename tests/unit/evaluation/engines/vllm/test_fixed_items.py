"""The check of an exchange by eight fixed items."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from aftermix.errors import EngineFaultError, EvaluationError, InputFaultError
from aftermix.evaluation.engines.vllm.fixed_items import ExchangeCheck, build_fixed_items, find_difference
from conftest import save_tokenizer

ITEMS = [([1, 2], [3]), ([1], [4, 5])]


@pytest.mark.parametrize(("block", "length", "longest"), [(128, 4096, 137), (16, 4096, 26), (128, 64, 58), (16, 8, 2)])
def test_contexts_pass_a_block_of_the_cache_where_the_model_is_long_enough(
    tmp_path: Path, block: int, length: int, longest: int
) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path)
    items = build_fixed_items(AutoTokenizer.from_pretrained(tmp_path), block=block, max_length=length)
    assert len(items) == 8
    assert [len(continuation) for _, continuation in items] == [1, 6] * 4
    assert max(len(context) for context, _ in items) == longest
    assert all(len(context) + len(continuation) <= length for context, continuation in items)
    if longest > block:
        assert all(len(context) > block for context, continuation in items if len(continuation) == 1)


def test_differences_are_counted_by_the_token() -> None:
    assert find_difference(ITEMS, [-1.0, -2.0], [-1.1, -2.5]) == pytest.approx(0.25)
    assert math.isnan(find_difference(ITEMS, [-1.0, math.nan], [-1.0, -2.0]))


@pytest.mark.parametrize(("start", "limit"), [(0.0, 0.02), (0.003, 0.02), (0.006, 0.03)])
def test_the_limit_is_five_times_the_difference_at_the_start_or_a_fiftieth(start: float, limit: float) -> None:
    check = ExchangeCheck.calibrate("vllm 0.32.0", ITEMS, [-1.0, -2.0], [-1.0 - start, -2.0])
    assert check.limit == pytest.approx(limit)
    inside, beyond = limit * 0.99, limit * 1.01
    assert check.refuse_other(ITEMS, [-3.0, -4.0], [-3.0, -4.0 - 2 * inside]) == pytest.approx(inside)
    with pytest.raises(
        EngineFaultError, match=r"^vllm 0\.32\.0: gives fixed items log-likelihoods that differ by 0\.0"
    ):
        check.refuse_other(ITEMS, [-3.0, -4.0], [-3.0, -4.0 - 2 * beyond])
    with pytest.raises(EngineFaultError, match="differ by nan"):
        check.refuse_other(ITEMS, [math.nan, -4.0], [-3.0, -4.0])


def test_engines_that_differ_at_the_start_run_different_models() -> None:
    with pytest.raises(EvaluationError, match="differ by 0.2 nats a token on fixed items with the base's weights"):
        ExchangeCheck.calibrate("vllm 0.32.0", ITEMS, [-1.0, -2.0], [-1.2, -2.0])


def test_a_fault_of_the_engine_is_no_trial_that_failed() -> None:
    assert issubclass(EngineFaultError, InputFaultError)
