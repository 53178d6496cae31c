"""A tree has one node for every distinct beginning, and a plan runs each of them once, or little more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.evaluation.engines.batches import build_scoring_plan
from aftermix.evaluation.engines.prefix_tree import Pair, PrefixTree, build_prefix_tree
from aftermix.evaluation.engines.tree_plan import TreeBatch, TreePlan, TreeStage, build_tree_plan

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=7)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12)


def list_beginnings(pairs: Sequence[Pair], max_length: int) -> set[tuple[int, ...]]:
    """The slow twin: every beginning of every input."""
    inputs = [(*context, *continuation[:-1])[-max_length:] for context, continuation in pairs]
    return {each[:end] for each in inputs for end in range(1, len(each) + 1)}


def spell(tree: PrefixTree, node: int) -> tuple[int, ...]:
    """The tokens from the root to `node`."""
    return tuple(int(tree.token_N[n]) for n in range(node + 1) if n <= node < tree.end_N[n])


@settings(max_examples=60)
@given(pairs=PAIRS, max_length=st.integers(7, 14))
def test_nodes_are_the_distinct_beginnings(pairs: list[Pair], max_length: int) -> None:
    tree = build_prefix_tree(pairs, max_length=max_length)
    assert sorted(spell(tree, node) for node in range(len(tree))) == sorted(list_beginnings(pairs, max_length))
    for node in range(len(tree)):
        assert tree.depth_N[node] == len(spell(tree, node)) - 1
        children = {spell(tree, child) for child in tree.list_children(node)}
        below = {spell(tree, n) for n in range(len(tree))}
        assert children == {b for b in below if b[:-1] == spell(tree, node)}
        fork = spell(tree, tree.find_fork(node))
        assert fork[: len(spell(tree, node))] == spell(tree, node)
    for request, (context, continuation) in enumerate(pairs):
        own = [entry for entry in tree.scored if entry.request == request]
        assert [entry.target for entry in own] == list(continuation)
        whole = (*context, *continuation)
        for place, entry in enumerate(own):
            before = whole[: len(context) + place]
            cut = max(0, len(whole) - 1 - max_length)
            assert spell(tree, entry.node) == before[cut:]


def list_batches(stage: TreeStage, cached: tuple[int, ...] = ()) -> Iterator[tuple[TreeBatch, tuple[int, ...]]]:
    """Every pass with the nodes that lie in the cache before it."""
    inner = cached
    if stage.beginning is not None:
        yield stage.beginning, cached
        inner = (*cached, *stage.beginning.first_BT[0].tolist())
    assert len(inner) == stage.cached
    for batch in stage.batches:
        yield batch, inner
    for deeper in stage.stages:
        yield from list_batches(deeper, inner)


@settings(max_examples=60)
@given(pairs=PAIRS, batch_size=st.integers(1, 4), repeats=st.integers(1, 12))
def test_each_token_sees_what_is_above_it_and_each_target_is_asked_for_once(
    pairs: list[Pair], batch_size: int, repeats: int
) -> None:
    # A long beginning that is worth a cache, and one that is not.
    pairs = [([*[9] * 5 * repeats, *context], continuation) for context, continuation in pairs]
    tree = build_prefix_tree(pairs, max_length=80)
    plan = build_tree_plan(pairs, batch_size=batch_size, max_length=80, device=CPU)
    asked: Counter[tuple[int, int, int]] = Counter()
    seen: set[int] = set()
    for batch, cached in list_batches(plan.root):
        mask_BTT = batch.build_mask(len(cached), torch.float32)[:, 0] == 0
        for row, nodes in enumerate(batch.first_BT.tolist()):
            assert list(nodes) == sorted(nodes, key=lambda n: n >= 0)  # padding comes first
            seen |= {n for n in nodes if n >= 0}
            for place, node in enumerate(nodes):
                if node < 0:
                    continue
                visible = [*cached, *nodes]
                above = [visible[column] for column in mask_BTT[row, place].nonzero()[:, 0].tolist()]
                assert sorted(above) == [n for n in range(node + 1) if n <= node < tree.end_N[n]]
                assert batch.positions_BT[row, place] == tree.depth_N[node] == len(above) - 1
                assert batch.tokens_BT[row, place] == tree.token_N[node]
        for entry, target, request in zip(batch.entry_Q, batch.target_Q.tolist(), batch.requests, strict=True):
            row, column = int(batch.row_S[entry]), int(batch.column_S[entry])
            asked[int(batch.first_BT[row, column - batch.kept]), target, request] += 1
    assert seen == set(range(len(tree)))
    assert asked == Counter((entry.node, entry.target, entry.request) for entry in tree.scored)
    assert plan.positions == sum(batch.positions for batch, _ in list_batches(plan.root)) >= plan.tokens == len(tree)


def make_items(kind: str, *, items: int = 150, seed: int = 0) -> list[Pair]:
    """Requests of four-choice items: a question of 20 to 60 tokens, choices of 2 to 12."""
    draw = random.Random(seed)
    words = lambda low, high: [draw.randrange(5000) for _ in range(draw.randint(low, high))]  # noqa: E731
    shots = words(400, 400)
    pairs: list[Pair] = []
    for _ in range(items):
        before = {"zero-shot": [1, 2, 3], "fixed": [1, 2, 3, *shots], "drawn": [1, 2, 3, *words(250, 350)]}[kind]
        context = [*before, *words(20, 60), 7]
        pairs += [(context, words(2, 12)) for _ in range(4)]
    return pairs


@pytest.mark.parametrize("batch_size", [8, 64])
@pytest.mark.parametrize("kind", ["zero-shot", "fixed", "drawn"])
def test_a_plan_computes_little_more_than_the_tree_has(kind: str, batch_size: int) -> None:
    pairs = make_items(kind)
    options = {"batch_size": batch_size, "max_length": 2048, "device": CPU}
    plan, plain = build_tree_plan(pairs, **options), build_scoring_plan(pairs, **options)
    assert plan.tokens <= plan.positions <= 1.1 * plan.tokens
    assert plan.positions < (0.2 if kind == "fixed" else 0.5) * plain.positions


def test_a_pass_holds_no_more_than_a_plain_one_may() -> None:
    pairs = make_items("fixed")
    longest = max(len(context) + len(continuation) - 1 for context, continuation in pairs)
    for batch_size in (1, 4, 16):
        plan = build_tree_plan(pairs, batch_size=batch_size, max_length=2048, device=CPU)
        for batch, cached in list_batches(plan.root):
            assert len(batch.tokens_BT) * (len(cached) + batch.tokens_BT.shape[1]) <= batch_size * longest


def test_beginnings_within_beginnings_do_not_exhaust_the_stack() -> None:
    whole = list(range(1200))
    pairs: list[Pair] = [(whole[:end], [5000 + end]) for end in range(1, 1200)]
    for batch_size in (1, 64):
        plan = build_tree_plan(pairs, batch_size=batch_size, max_length=4096, device=CPU)
        assert (plan.tokens, plan.positions) == (1199, 1199)


def test_the_same_requests_have_the_same_plan() -> None:
    def describe(plan: TreePlan) -> list[list[list[int]]]:
        return [batch.first_BT.tolist() for batch, _ in list_batches(plan.root)]

    pairs = make_items("fixed", items=20)
    plans = [build_tree_plan(pairs, batch_size=8, max_length=2048, device=CPU) for _ in range(2)]
    assert describe(plans[0]) == describe(plans[1])
    long = build_tree_plan([([1, 2, 3, 4, 5], [6]), ([1], [2])], batch_size=8, max_length=3, device=CPU)
    assert (long.truncated, long.depth) == (1, 3)
