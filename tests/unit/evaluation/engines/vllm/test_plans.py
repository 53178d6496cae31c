"""Plans of sequences for vLLM, against each request by itself."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from aftermix.evaluation.engines.vllm.plans import MOST_MEMBERS, build_sequence_plan


@given(st.integers(0, 1 << 16), st.integers(1, 5), st.integers(6, 12))
def test_each_request_is_scored_once_on_its_own_input(seed: int, batch_size: int, max_length: int) -> None:
    draw = random.Random(seed)
    pairs = [tuple(draw.choices(range(3), k=draw.randint(1, 6)) for _ in range(2)) for _ in range(draw.randrange(20))]
    plan = build_sequence_plan(pairs, batch_size=batch_size, max_length=max_length)
    seen = {}
    for batch in plan.batches:
        assert len(batch.sequences) <= batch_size
        for sequence in batch.sequences:
            for member, continuation in zip(sequence.members, sequence.continuations, strict=True):
                context, wanted = pairs[member]
                assert list(continuation) == wanted
                assert list(sequence.tokens) == (context + wanted[:-1])[-max_length:]
                seen[member] = sequence
    assert sorted(seen) == list(range(len(pairs)))
    inputs = {(*context, *continuation[:-1]) for context, continuation in pairs}
    assert plan.positions == sum(min(len(tokens), max_length) for tokens in inputs)
    assert plan.truncated == sum(len(context) + len(wanted) - 1 > max_length for context, wanted in pairs)
    assert sum(len(batch.requests) for batch in plan.batches) == sum(len(wanted) for _, wanted in pairs)


def test_no_more_tokens_are_looked_up_at_a_position_than_vllm_takes() -> None:
    plan = build_sequence_plan([([1], [token]) for token in range(300)], batch_size=8, max_length=8)
    assert [len(sequence.members) for sequence in plan.batches[0].sequences] == [MOST_MEMBERS, MOST_MEMBERS, 44]
    assert all(sequence.is_read_from_cache for sequence in plan.batches[0].sequences)
