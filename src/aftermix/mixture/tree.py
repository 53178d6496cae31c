"""A tree of domains: groups of groups of experts, and what shares within each group make of the whole.

The share of an expert in the whole mixture is the product of the shares on the way down to it. What is searched at one
group is the shares of its members alone, so the weights of a measured merge are linear in them (`GroupEmbedding`):

    bottom up   w = sum_k x_k m_k                 the group by itself; member k stands for its mixture m_k of experts
    top down    w = o + s sum_k x_k m_k           the whole; the group has its share s, and all others what o gives them

Source: MergeMix, section 3.5 (hierarchical data mix); docs/mixture.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.config.fields import LONGEST_NAME, NAME_PATTERN
from aftermix.errors import Problem, join_place, refuse_if_any
from aftermix.mixture.bounds import TOLERANCE, ShareBounds, move_between
from aftermix.mixture.simplex import Floats, name_shares

# N points, K members of a group, L experts (leaves of the tree); of limits C candidates, K experts, M members

ROOT = "all"
"""Name of the group of all."""
WHERE = "mixture.tree"
DEEPEST = 16
HALVINGS = 60
Inner = Mapping[str, Mapping[str, float]]
"""By group, the share of each member in it."""


@dataclass(frozen=True)
class TreeNode:
    """An expert, or a group of them."""

    name: str
    members: tuple[TreeNode, ...] = ()
    """None: an expert."""

    @property
    def is_group(self) -> bool:
        """True if there is something to search in it."""
        return bool(self.members)

    @property
    def experts(self) -> tuple[str, ...]:
        """All experts in it, in the order of the file."""
        return tuple(name for member in self.members for name in member.experts) if self.members else (self.name,)

    def groups(self) -> tuple[TreeNode, ...]:
        """This group and all below it, level by level."""
        found, level = [], [self]
        while level:
            found += level
            level = [member for group in level for member in group.members if member.is_group]
        return tuple(found)


def parse_tree(value: Any, experts: Sequence[str]) -> TreeNode:
    """The tree that a file means: a group is a list of members, or a mapping of groups by name in which a name without
    value is an expert.

    Raises :class:`ManyProblemsError` with everything that is wrong: names that are no expert's, experts that are there
    twice or not at all, names of groups that are used twice or are an expert's, groups of fewer than two members.

    >>> parse_tree({"code": ["repos", "contests"], "web": None}, ["web", "repos", "contests"]).experts
    ('repos', 'contests', 'web')
    """
    problems: list[Problem] = []
    root = TreeNode(ROOT, tuple(_read_members(value, WHERE, problems, depth=1)))
    # What could not be read may hold an expert that seems to be missing.
    missing = [] if problems else list(_list_missing(root, experts))
    refuse_if_any([*problems, *_check_groups(root, experts), *_check_experts(root, experts), *missing])
    return root


def _read_members(value: Any, where: str, problems: list[Problem], *, depth: int) -> Iterator[TreeNode]:
    parts = list(_split_parts(value, where, problems)) if depth <= DEEPEST else []
    if depth > DEEPEST:
        problems.append(Problem(where, f"has more than {DEEPEST} levels", "Join some of them."))
    for name, content in parts:
        if content is None:
            yield TreeNode(name)
        else:
            yield TreeNode(name, tuple(_read_members(content, join_place(where, name), problems, depth=depth + 1)))
    if len(parts) < 2 and depth <= DEEPEST:
        remedy = "Add members, or put its one member in its place."
        problems.append(Problem(where, f"expected two members or more, found {len(parts)}", remedy))


def _split_parts(value: Any, where: str, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """Names of members, each with the content of the group that it is, or None."""
    remedy = "Write a group as [expert, expert] or as {group: [...], expert: }."
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, str) and part is not value:
            yield part, None
        elif isinstance(part, Mapping) and all(isinstance(name, str) for name in part):
            yield from part.items()
        else:
            problems.append(Problem(where, f"expected names and groups, found {part!r}", remedy))


def _check_groups(root: TreeNode, experts: Sequence[str]) -> Iterator[Problem]:
    names = Counter(group.name for group in root.groups())
    for name, count in names.items():
        where = f"{WHERE}: group '{name}'"
        if count > 1:
            taken = "is the name of the whole" if name == ROOT else "is there twice"
            yield Problem(where, taken, "Give each group a name of its own.")
        if name in experts:
            rename = f"Rename the expert: '{ROOT}' is the whole." if name == ROOT else "Rename the group."
            yield Problem(where, "has the name of an expert", rename)
        if not re.fullmatch(NAME_PATTERN, name) or len(name) > LONGEST_NAME:
            found = f"expected letters, digits, '_', '.' and '-', at most {LONGEST_NAME}, the first a letter or digit"
            yield Problem(where, found, "Rename the group: it becomes a folder.")


def _check_experts(root: TreeNode, experts: Sequence[str]) -> Iterator[Problem]:
    names = Counter(root.experts)
    known = ", ".join(experts)
    for name, count in names.items():
        where = f"{WHERE}: '{name}'"
        if name not in experts:
            yield Problem(where, f"is no expert; the file's are {known}", "Correct the name, or add it to `vectors`.")
        elif count > 1:
            yield Problem(where, f"is there {count} times", "Put each expert into one group.")


def _list_missing(root: TreeNode, experts: Sequence[str]) -> Iterator[Problem]:
    names = root.experts
    for name in experts:
        if name not in names:
            yield Problem(f"{WHERE}: '{name}'", "is in no group", "Add it, or leave it out of `vectors`.")


def multiply_shares(node: TreeNode, inner: Inner) -> dict[str, float]:
    """Share of each expert in `node`: products of the shares on the way down.

    >>> tree = parse_tree({"code": ["x", "y"], "web": None}, ["x", "y", "web"])
    >>> multiply_shares(tree, {"all": {"code": 0.5, "web": 0.5}, "code": {"x": 0.75, "y": 0.25}})
    {'x': 0.375, 'y': 0.125, 'web': 0.5}
    """
    if not node.is_group:
        return {node.name: 1.0}
    shares = inner[node.name]
    return {
        name: shares[member.name] * share
        for member in node.members
        for name, share in multiply_shares(member, inner).items()
    }


def find_share(root: TreeNode, name: str, inner: Inner) -> float:
    """Share of the node `name` in the whole."""
    if root.name == name:
        return 1.0
    member = next(member for member in root.members if _holds(member, name))
    return inner[root.name][member.name] * find_share(member, name, inner)


def _holds(node: TreeNode, name: str) -> bool:
    return node.name == name or any(_holds(member, name) for member in node.members)


def share_within(node: TreeNode, shares: Mapping[str, float]) -> dict[str, float] | None:
    """Share that a mixture of all experts gives each member of `node`; None where it gives them nothing.

    >>> share_within(parse_tree({"code": ["x", "y"], "web": None}, ["x", "y", "web"]), {"x": 0.25, "web": 0.75})
    {'code': 0.25, 'web': 0.75}
    """
    given = {member.name: sum(shares.get(name, 0.0) for name in member.experts) for member in node.members}
    total = sum(given.values())
    return {name: share / total for name, share in given.items()} if total > 0 else None


@dataclass(frozen=True)
class GroupEmbedding:
    """The merge weights of experts that a mixture of a group's members stands for."""

    experts: tuple[str, ...]
    members: tuple[str, ...]
    weights_KL: Floats
    """Weights that a share of 1 of each member stands for; each expert belongs to one member at most."""
    rest_L: Floats
    """Weights of the experts of other groups, and 0 for those of this one."""

    @classmethod
    def flat(cls, experts: Sequence[str]) -> GroupEmbedding:
        """Of a mixture without groups."""
        return cls(tuple(experts), tuple(experts), np.eye(len(experts)), np.zeros(len(experts)))

    @classmethod
    def alone(cls, node: TreeNode, inner: Inner, experts: Sequence[str]) -> GroupEmbedding:
        """Of the group `node` by itself (bottom up)."""
        rows = [multiply_shares(member, inner) for member in node.members]
        weights_KL = np.array([[row.get(name, 0.0) for name in experts] for row in rows])
        return cls(tuple(experts), tuple(member.name for member in node.members), weights_KL, np.zeros(len(experts)))

    @classmethod
    def among_others(cls, root: TreeNode, node: TreeNode, inner: Inner, experts: Sequence[str]) -> GroupEmbedding:
        """Of the group `node` within the whole, the other groups and its share left as they are (top down)."""
        apart, whole = cls.alone(node, inner, experts), multiply_shares(root, inner)
        rest_L = np.array([0.0 if name in node.experts else whole[name] for name in experts])
        return cls(apart.experts, apart.members, find_share(root, node.name, inner) * apart.weights_KL, rest_L)

    def weights(self, shares_K: Floats) -> dict[str, float]:
        """Merge weight of each expert: `w = rest + x W`."""
        # An expert has one member, so each sum has one term that is not 0 and is exact.
        return name_shares(self.rest_L + (np.asarray(shares_K)[:, None] * self.weights_KL).sum(axis=0), self.experts)

    def shares(self, weights_NL: Floats) -> Floats:
        """(N, K) the mixtures that merges at these weights stand for: `x_k = sum_l w_l / sum_l W_kl` over its experts.

        A member whose experts weigh nothing at any share has none.
        """
        mine_LK = (self.weights_KL > 0).T.astype(np.float64)
        return np.asarray((weights_NL @ mine_LK) / self.weights_KL.sum(axis=1))


@dataclass(frozen=True)
class TreeBounds:
    """Mixtures of all experts that keep to the limits of every group: a share of the members' own in each.

    A group with the share s of the whole gives its member k the share `s x_k`, with `low_k <= x_k <= high_k`; a group
    without a share keeps to any limits. `capacity` caps the share of an expert in the whole, as in :func:`limit_share`.
    """

    root: TreeNode
    domains: tuple[str, ...]
    """All experts, in the file's order."""
    limits: Mapping[str, tuple[float, float]]
    """By member of some group, its lowest and highest share there; all of it where there is none."""
    capacity: Mapping[str, float]
    """By expert; none where nothing caps them."""

    low_K: Floats
    """Nothing: what an expert has at least hangs on the share of its group."""
    high_K: Floats
    """All that the caps leave of the whole."""

    @classmethod
    def build(
        cls,
        root: TreeNode,
        domains: Sequence[str],
        *,
        limits: Mapping[str, tuple[float, float]],
        capacity: Mapping[str, float],
    ) -> TreeBounds:
        """The limits of a tree that has been checked."""
        high_K = np.array([min(1.0, capacity.get(name, 1.0)) for name in domains])
        return cls(root, tuple(domains), limits, capacity, np.zeros(len(domains)), high_K)

    def admits(self, weights_CK: Floats) -> NDArray[np.bool_]:
        """(C,) whether each mixture keeps to all limits."""
        inside_C = np.asarray((weights_CK <= self.high_K + TOLERANCE).all(axis=1))
        for group in self.root.groups():
            sums_CM = self._sum_members(group, weights_CK)
            share_C1 = sums_CM.sum(axis=1, keepdims=True)
            low_M, high_M = self._list_limits(group)
            inside_CM = (sums_CM >= low_M * share_C1 - TOLERANCE) & (sums_CM <= high_M * share_C1 + TOLERANCE)
            inside_C &= inside_CM.all(axis=1)
        return inside_C

    def nearest(self, weights_CK: Floats) -> Floats:
        """(C, K) an allowed mixture near each row: from the whole down, shares in each group are moved to the nearest
        allowed ones, those of a group that has nothing from equal ones."""
        moved_CK = np.zeros(np.shape(weights_CK))
        self._move_group(self.root, weights_CK, np.ones(len(weights_CK)), moved_CK)
        return moved_CK

    def _move_group(self, group: TreeNode, weights_CK: Floats, share_C: Floats, moved_CK: Floats) -> None:
        """Write the shares of the experts of `group`, which has `share_C` of the whole, into `moved_CK`."""
        sums_CM = self._sum_members(group, weights_CK)
        total_C1 = sums_CM.sum(axis=1, keepdims=True)
        inner_CM = np.where(total_C1 > 0, sums_CM / np.where(total_C1 > 0, total_C1, 1.0), 1 / len(group.members))

        low_M, high_M = self._list_limits(group)
        full = {name: self.capacity.get(name, 1.0) for name in group.experts}
        caps_M = np.array([limit_share(member, self.limits, full) for member in group.members])
        high_CM = np.minimum(high_M, caps_M / np.maximum(share_C, TOLERANCE)[:, None])
        inner_CM = move_between(inner_CM, low_M, high_CM)
        for place, member in enumerate(group.members):
            share_member_C = share_C * inner_CM[:, place]
            if member.is_group:
                self._move_group(member, weights_CK, share_member_C, moved_CK)
            else:
                moved_CK[:, self.domains.index(member.name)] = share_member_C

    def _sum_members(self, group: TreeNode, weights_CK: Floats) -> Floats:
        """(C, M) share of the whole of each member of `group`."""
        columns = [[self.domains.index(name) for name in member.experts] for member in group.members]
        return np.stack([weights_CK[:, places].sum(axis=1) for places in columns], axis=1)

    def _list_limits(self, group: TreeNode) -> tuple[Floats, Floats]:
        low_M, high_M = np.array([self.limits.get(member.name, (0.0, 1.0)) for member in group.members]).T
        return low_M, high_M


MixtureLimits = ShareBounds | TreeBounds
"""Limits of the mixtures that are looked through."""


def limit_share(node: TreeNode, limits: Mapping[str, tuple[float, float]], capacity: Mapping[str, float]) -> float:
    """The largest share of the whole that `node` may have without repeating an expert's data too often.

    `capacity` is `max_epochs * tokens / budget_tokens` by expert, `limits` the bounds of members in their groups. A
    group that has a share s needs shares x of its members with `s x_k <= most(k)` within the limits; the largest such
    s is found by halving. 0 where there is none.
    """
    if not node.is_group:
        return min(1.0, capacity[node.name])
    low_K, high_K = np.array([limits.get(member.name, (0.0, 1.0)) for member in node.members]).T
    caps_K = np.array([limit_share(member, limits, capacity) for member in node.members])

    def fits(share: float) -> bool:
        return bool((low_K * share <= caps_K + 1e-12).all() and np.minimum(high_K * share, caps_K).sum() >= share)

    below, above = 0.0, 1.0
    if fits(above):
        return above
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below
