"""Planned, sorted and padded batches give what scoring each request alone gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from aftermix.evaluation.engines.batches import CACHED_LOGITS, Pair, answer_targets, build_scoring_plan, score_plan

TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=12)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(model_a: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model_a).eval()


def one_by_one(model: torch.nn.Module, pairs: list[Pair], max_length: int) -> list[tuple[float, bool]]:
    """The slow twin: one sequence a call, logits everywhere, no padding, no sharing."""
    answers = []
    for context, continuation in pairs:
        inputs = [*context, *continuation][:-1][-max_length:]
        with torch.no_grad():
            log_probabilities = torch.log_softmax(model(torch.tensor([inputs])).logits[0], dim=-1)[-len(continuation) :]
        chosen = log_probabilities[range(len(continuation)), continuation]
        answers.append((float(chosen.sum()), log_probabilities.argmax(-1).tolist() == list(continuation)))
    return answers


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=9), batch_size=st.integers(1, 4))
def test_batched_scores_are_those_of_single_requests(
    model: torch.nn.Module, pairs: list[Pair], batch_size: int
) -> None:
    plan = build_scoring_plan(pairs, batch_size=batch_size, max_length=16, device=CPU)
    with torch.no_grad():
        found = score_plan(plan, lambda tokens, positions: model(tokens, logits_to_keep=positions).logits)
    for (value, greedy), (expected, expected_greedy) in zip(found, one_by_one(model, pairs, 16), strict=True):
        assert value == pytest.approx(expected, abs=2e-4)
        assert greedy == expected_greedy


def test_requests_with_the_same_input_share_a_sequence() -> None:
    plan = build_scoring_plan([([1, 2], [3]), ([1, 2], [4]), ([1], [2, 5])], batch_size=8, max_length=16, device=CPU)
    assert plan.tokens == 2
    assert len(plan.batches) == 1
    assert plan.batches[0].tokens_BT.tolist() == [[1, 2]]
    assert [request for request, _, _ in plan.batches[0].spans] == [0, 1, 2]


def test_long_sequences_come_first_and_are_cut_on_the_left() -> None:
    plan = build_scoring_plan([([1], [2]), (list(range(9)), [7])], batch_size=1, max_length=4, device=CPU)
    assert [batch.tokens_BT.tolist() for batch in plan.batches] == [[[5, 6, 7, 8]], [[1]]]
    assert (plan.tokens, plan.truncated) == (5, 1)


def test_only_scored_positions_are_asked_for() -> None:
    plan = build_scoring_plan([([1, 2, 3, 4], [5, 6]), ([1, 2], [3])], batch_size=2, max_length=16, device=CPU)
    assert plan.batches[0].positions_P.tolist() == [1, 3, 4]


def test_of_equal_logits_the_first_is_greedy() -> None:
    plan = build_scoring_plan([([0], [0]), ([0], [1])], batch_size=2, max_length=4, device=CPU)
    answers = score_plan(plan, lambda tokens, positions: torch.zeros(1, 1, 3))
    assert [greedy for _, greedy in answers] == [True, False]
    assert answers[0][0] == pytest.approx(-1.0986123)


def test_targets_are_answered_a_few_rows_at_a_time_as_all_at_once() -> None:
    # Two rows at a time, the last by itself; a row without a target, one with three, and a tie for the largest.
    logits_SV = torch.randn(5, CACHED_LOGITS // 2, generator=torch.Generator().manual_seed(0))
    logits_SV[4, [7, 9]] = 50.0
    entry_Q, target_Q = torch.tensor([0, 1, 1, 1, 3, 4, 4]), torch.tensor([3, 0, 5, 0, 8, 9, 7])
    target_Q[2] = logits_SV[1].argmax()
    found = answer_targets(logits_SV, entry_Q, target_Q)
    assert found.values == torch.log_softmax(logits_SV, -1)[entry_Q, target_Q].tolist()
    assert found.greedy == [False, False, True, False, False, False, True]
    assert answer_targets(logits_SV[:0], entry_Q[:0], target_Q[:0]) == type(found)([], [])
