"""A tree of domains: how a file writes it, and what shares within groups make of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from aftermix.errors import AftermixError
from aftermix.mixture.tree import (
    GroupEmbedding,
    TreeBounds,
    TreeNode,
    find_share,
    limit_share,
    multiply_shares,
    parse_tree,
    share_within,
)

EXPERTS = tuple("uvwxyz")
WRITTEN = {"left": {"u": None, "deep": ["v", "w"]}, "right": ["x", {"far": ["y", "z"]}]}


@st.composite
def trees(draw: st.DrawFn) -> TreeNode:
    """Groups of 2 to 4 members, up to three levels deep."""
    count = 0

    def node(depth: int) -> TreeNode:
        nonlocal count
        count += 1
        name = f"n{count}"
        if depth and (depth == 3 or draw(st.booleans())):
            return TreeNode(name, tuple(node(depth - 1) for _ in range(draw(st.integers(2, 4)))))
        return TreeNode(name)

    return TreeNode("all", node(3).members)


@st.composite
def shared_trees(draw: st.DrawFn) -> tuple[TreeNode, dict[str, dict[str, float]]]:
    tree = draw(trees())
    inner = {}
    for group in tree.groups():
        sizes = draw(st.lists(st.floats(0.01, 1), min_size=len(group.members), max_size=len(group.members)))
        inner[group.name] = {member.name: size / sum(sizes) for member, size in zip(group.members, sizes, strict=True)}
    return tree, inner


def mirrored(node: TreeNode) -> TreeNode:
    return TreeNode(node.name, tuple(mirrored(member) for member in node.members[::-1]))


def test_lists_and_mappings_mean_groups_and_names_without_value_are_experts() -> None:
    tree = parse_tree(WRITTEN, EXPERTS)
    assert tree.experts == EXPERTS
    assert [group.name for group in tree.groups()] == ["all", "left", "right", "deep", "far"]
    lists = [{"left": ["u", {"deep": ["v", "w"]}]}, {"right": ["x", {"far": {"y": None, "z": None}}]}]
    assert parse_tree(lists, EXPERTS) == tree


def told(value: Any, experts: str | tuple[str, ...] = "abcd") -> str:
    with pytest.raises(AftermixError) as caught:
        parse_tree(value, tuple(experts))
    return str(caught.value)


def test_all_faults_of_a_tree_are_told_at_once() -> None:
    message = told({"x": ["a", "b"], "c": ["b", "q"], "y": {"x": ["a", "a"], "e": ["c"]}})
    for fault in (
        "mixture.tree: group 'x': is there twice",
        "mixture.tree: group 'c': has the name of an expert",
        "mixture.tree: 'a': is there 3 times. Put each expert into one group.",
        "mixture.tree: 'b': is there 2 times",
        "mixture.tree: 'q': is no expert; the file's are a, b, c, d",
        "mixture.tree.y.e: expected two members or more, found 1. Add members, or put its one member in its place.",
    ):
        assert fault in message
    assert "'d': is in no group. Add it, or leave it out of `vectors`." in told({"x": ["a", "b"], "c": None})


def test_groups_that_are_none_are_told_by_their_place() -> None:
    message = told({"x": ["a"], "y": ["b", 3, [1]], "z": "c"})
    assert "mixture.tree.x: expected two members or more, found 1" in message
    assert "mixture.tree.y: expected names and groups, found 3" in message
    assert "mixture.tree.y: expected names and groups, found [1]" in message
    assert "mixture.tree.z: expected names and groups, found 'c'" in message
    assert "group '../x': expected letters, digits, '_', '.' and '-'" in told({"../x": ["a", "b"], "y": ["c", "d"]})
    assert "expected letters" in told({"x" * 65: ["a", "b"], "y": ["c", "d"]})
    assert "group 'all': is the name of the whole" in told({"all": ["a", "b"], "y": ["c", "d"]})
    assert "mixture.tree: expected two members or more, found 0" in told([])
    message = told(["all", "b"], ("all", "b"))
    assert "group 'all': has the name of an expert. Rename the expert: 'all' is the whole." in message
    deep: Any = ["a", "b"]
    for number in range(20):
        deep = {f"g{number}": deep, f"h{number}": None}
    assert "has more than 16 levels" in told(deep)


@settings(max_examples=60)
@given(shared_trees())
def test_ratios_sum_to_1_are_products_of_shares_and_know_no_order(
    case: tuple[TreeNode, dict[str, dict[str, float]]],
) -> None:
    tree, inner = case
    found = multiply_shares(tree, inner)
    assert sum(found.values()) == pytest.approx(1)
    again = multiply_shares(mirrored(tree), inner)
    assert again.keys() == found.keys()
    assert all(again[name] == pytest.approx(found[name], rel=1e-12) for name in found)
    for name in tree.experts:
        assert find_share(tree, name, inner) == pytest.approx(found[name])
    for group in tree.groups():
        assert find_share(tree, group.name, inner) == pytest.approx(sum(found[name] for name in group.experts))
        assert share_within(group, found) == pytest.approx(inner[group.name])


@settings(max_examples=60)
@given(shared_trees(), st.integers(0, 1000))
def test_weights_are_a_linear_map_of_shares_and_are_read_back(
    case: tuple[TreeNode, dict[str, dict[str, float]]], seed: int
) -> None:
    tree, inner = case
    draw = np.random.default_rng(seed)
    for group in tree.groups():
        shares_NK = draw.dirichlet(np.ones(len(group.members)), size=3)
        alone = GroupEmbedding.alone(group, inner, tree.experts)
        among = GroupEmbedding.among_others(tree, group, inner, tree.experts)
        for embedding in (alone, among):
            rows = [embedding.weights(row_K) for row_K in shares_NK]
            weights_NL = np.array([[row[name] for name in tree.experts] for row in rows])
            np.testing.assert_allclose(weights_NL.sum(axis=1), 1, atol=1e-12)
            np.testing.assert_allclose(embedding.shares(weights_NL), shares_NK, atol=1e-12)
        # Slow twins: the products down the tree with these shares in place of the group's.
        moved = inner | {group.name: dict(zip(among.members, map(float, shares_NK[0]), strict=True))}
        assert among.weights(shares_NK[0]) == pytest.approx(multiply_shares(tree, moved))
        own = multiply_shares(group, moved)
        assert alone.weights(shares_NK[0]) == pytest.approx({name: own.get(name, 0.0) for name in tree.experts})


def test_a_flat_mixture_is_its_own_weights_to_the_bit() -> None:
    flat = GroupEmbedding.flat(("a", "b", "c"))
    shares_K = np.array([0.1, 0.2, 0.7])
    assert flat.weights(shares_K) == {"a": 0.1, "b": 0.2, "c": 0.7}
    assert flat.shares(shares_K[None]).tolist() == [[0.1, 0.2, 0.7]]


def test_a_mixture_that_gives_a_group_nothing_says_nothing_of_it() -> None:
    tree = parse_tree(WRITTEN, EXPERTS)
    assert share_within(tree, {"u": 0.5, "x": 0.25, "y": 0.25}) == {"left": 0.5, "right": 0.5}
    deep = next(group for group in tree.groups() if group.name == "deep")
    assert share_within(deep, {"u": 0.5, "x": 0.5}) is None


@settings(max_examples=60)
@given(trees(), st.integers(0, 1000))
def test_the_most_that_caps_and_bounds_allow_is_that_of_a_linear_program(tree: TreeNode, seed: int) -> None:
    draw = np.random.default_rng(seed)
    capacity = {name: float(draw.uniform(0.01, 0.6)) for name in tree.experts}
    members = [member for group in tree.groups() for member in group.members]
    limits = {
        m.name: (float(draw.uniform(0, 0.2)), float(draw.uniform(0.6, 1))) for m in members if draw.random() < 0.5
    }
    assert limit_share(tree, limits, capacity) == pytest.approx(_program(tree, limits, capacity), abs=1e-6)


@settings(max_examples=60)
@given(trees(), st.integers(0, 1000))
def test_a_mixture_is_moved_to_one_that_keeps_to_the_limits_of_all_groups(tree: TreeNode, seed: int) -> None:
    draw = np.random.default_rng(seed)
    experts, members = tree.experts, [member for group in tree.groups() for member in group.members]
    limits = {
        m.name: (float(draw.uniform(0, 0.2)), float(draw.uniform(0.6, 1))) for m in members if draw.random() < 0.5
    }
    capacity = {name: float(draw.uniform(0.2, 1)) for name in experts} if draw.random() < 0.5 else {}
    assume(limit_share(tree, limits, {name: capacity.get(name, 1.0) for name in experts}) == 1.0)
    bounds = TreeBounds.build(tree, experts, limits=limits, capacity=capacity)

    mixtures = draw.dirichlet(np.full(len(experts), 0.3), size=40)
    mixtures[0] = np.eye(len(experts))[0]  # gives most groups nothing
    moved = bounds.nearest(mixtures)
    assert np.allclose(moved.sum(axis=1), 1)
    assert bounds.admits(moved).all()
    assert np.allclose(bounds.nearest(moved), moved, atol=1e-6)

    # Group by group, as shares within each.
    for row, is_inside in zip(mixtures, bounds.admits(mixtures), strict=True):
        shares = dict(zip(experts, row, strict=True))
        kept = all(shares[name] <= cap for name, cap in capacity.items())
        for group in tree.groups():
            inner = share_within(group, shares) or {}
            for name, share in inner.items():
                low, high = limits.get(name, (0.0, 1.0))
                kept &= low <= share <= high
        assert kept == is_inside


def _program(tree: TreeNode, limits: dict[str, tuple[float, float]], capacity: dict[str, float]) -> float:
    """The largest share of the whole, with one variable for each node's."""
    nodes = [tree, *(member for group in tree.groups() for member in group.members)]
    place = {node.name: number for number, node in enumerate(nodes)}
    equal, below = [], []
    for group in tree.groups():
        row = np.zeros(len(nodes))
        row[place[group.name]] = -1
        for member in group.members:
            row[place[member.name]] = 1
            low, high = limits.get(member.name, (0.0, 1.0))
            for sign, limit in ((-1, low), (1, high)):
                limited = np.zeros(len(nodes))
                limited[place[member.name]], limited[place[group.name]] = sign, -sign * limit
                below.append(limited)
        equal.append(row)
    cost = np.zeros(len(nodes))
    cost[0] = -1
    ends = [(0, min(1.0, capacity.get(node.name, 1.0))) for node in nodes]
    sums = {"A_eq": np.array(equal), "b_eq": np.zeros(len(equal))}
    found = linprog(cost, A_ub=np.array(below), b_ub=np.zeros(len(below)), bounds=ends, **sums)
    return float(found.x[0])
