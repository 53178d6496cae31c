"""Plain batches or a tree: a function of the requests and the batch size, told from lengths before tensors are made."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.evaluation.engines.batches import ScoringPlan, build_scoring_plan, count_plain_positions
from aftermix.evaluation.engines.plan_choice import choose_plan, describe_choices
from aftermix.evaluation.engines.prefix_tree import Pair, build_prefix_tree
from aftermix.evaluation.engines.tree_layout import lay_out_tree
from aftermix.evaluation.engines.tree_plan import TreePlan, build_tree_plan

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=7)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12)


def make_items(
    items: int, choices: int, *, context: int, shared: int = 0, answer: int = 3, seed: int = 0
) -> list[Pair]:
    """Items whose choices share `context` tokens; all items share the `shared` tokens before them."""
    draw = random.Random(seed)
    words = lambda count: [draw.randrange(5000) for _ in range(count)]  # noqa: E731
    start = words(shared)
    pairs: list[Pair] = []
    for _ in range(items):
        own = [*start, *words(context)]
        pairs += [(own, words(answer)) for _ in range(choices)]
    return pairs


@settings(max_examples=60)
@given(pairs=PAIRS, batch_size=st.integers(1, 4), max_length=st.integers(7, 14))
def test_positions_are_counted_without_tensors(pairs: list[Pair], batch_size: int, max_length: int) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length}
    assert count_plain_positions(pairs, **options) == build_scoring_plan(pairs, device=CPU, **options).positions

    tree = build_prefix_tree(pairs, max_length=max_length)
    layout, plan = lay_out_tree(tree, batch_size=batch_size), build_tree_plan(pairs, device=CPU, **options)
    assert layout.count_positions() == plan.positions
    assert (plan.tokens, plan.depth, plan.truncated) == (len(tree), tree.depth, tree.truncated)
    assert tree.truncated == sum(len(context) + len(answer) - 1 > max_length for context, answer in pairs)


@pytest.mark.parametrize(
    ("batch_size", "pairs", "tree"),
    [
        (16, make_items(40, 1, context=30), False),  # nothing is shared
        (16, make_items(40, 1, context=30, shared=3), False),  # little is
        (16, make_items(40, 1, context=30, shared=16), False),  # 0.68 of the positions
        (16, make_items(40, 1, context=30, shared=20), True),  # 0.63
        (16, make_items(40, 2, context=20, answer=20), False),  # 0.76
        (16, make_items(6, 2, context=230, answer=270), False),  # 0.77, near the model's length
        (16, make_items(6, 2, context=500), True),
        (16, make_items(40, 4, context=30), True),
        (16, make_items(40, 4, context=2), True),
        (16, make_items(40, 1, context=10, shared=200), True),
        (16, make_items(1, 4, context=30), True),
        (16, make_items(1, 1, context=30), False),
        (1, make_items(40, 1, context=30), False),
        (1, make_items(40, 4, context=30), False),  # a pass holds one sequence: only what is cached is shared
        (1, make_items(40, 1, context=10, shared=200), True),
        (1, make_items(40, 1, context=40, shared=16), False),
        (2, make_items(40, 4, context=20), True),
    ],
)
def test_the_choice_is_by_positions(batch_size: int, pairs: list[Pair], tree: bool) -> None:
    chosen = choose_plan(pairs, batch_size=batch_size, max_length=512, device=CPU)
    assert isinstance(chosen.plan, TreePlan if tree else ScoringPlan)
    assert chosen.plain_positions == count_plain_positions(pairs, batch_size=batch_size, max_length=512)
    assert bool(chosen.reason) != tree


def test_the_reason_is_told() -> None:
    pairs = make_items(40, 1, context=30, shared=3)
    options: dict[str, Any] = {"batch_size": 16, "max_length": 512, "device": CPU}
    assert choose_plan(pairs, **options).reason == "1,283 positions instead of 1,400 would save too little"
    assert choose_plan(pairs[:1], **options).reason == "there is one request"

    items = make_items(10, 4, context=30)
    assert choose_plan(items, **options, reason="it is recurrent").reason == "it is recurrent"
    assert choose_plan(items, **options, window=31).reason == "32 tokens pass a window of attention of 31"
    assert choose_plan(items, **options, window=32).reason == ""


def test_requests_cut_on_the_left_share_less() -> None:
    pairs = make_items(20, 4, context=100, shared=400)
    pairs = [(context, [*answer, *range(number % 4)]) for number, (context, answer) in enumerate(pairs)]
    whole, cut = (choose_plan(pairs, batch_size=8, max_length=length, device=CPU) for length in (512, 64))
    assert isinstance(whole.plan, TreePlan)
    assert isinstance(cut.plan, ScoringPlan)
    assert cut.plan.truncated == 80


def test_positions_are_told_and_tasks_that_share_nothing() -> None:
    options: dict[str, Any] = {"batch_size": 16, "max_length": 512, "device": CPU}
    alike, other = (choose_plan(make_items(40, choices, context=30), **options) for choices in (4, 1))
    line = "beginnings run once: 1,520 positions a search evaluation, 5,120 without"
    why = "1,280 positions instead of 1,280 would save too little"
    assert describe_choices({}) == ""
    assert describe_choices({"a": alike}) == line
    assert describe_choices({"b": other}) == f"no beginnings are shared (b: {why})"
    both = "beginnings run once: 2,800 positions a search evaluation, 6,400 without"
    assert describe_choices({"a": alike, "b": other}) == f"{both} (not shared in b: {why})"
