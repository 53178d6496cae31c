"""The prefix tree of requests: what begins alike is one path, whose tokens go through the model once.

N nodes in preorder, so that the subtree of node `n` is the range from `n` to `end_N[n]`, and node `j` is `i` or above
it where `j <= i < end_N[j]`. The last token of a continuation predicts nothing that is asked for, and is no node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[Sequence[int], Sequence[int]]
"""Tokens of a context and of the continuation that is scored."""
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ScoredToken:
    """A token of a continuation, predicted at a node."""

    node: int
    target: int
    request: int


@dataclass(frozen=True)
class PrefixTree:
    """Nodes of a set of requests."""

    token_N: Integers
    depth_N: Integers
    """Position in its sequence, from 0."""
    end_N: Integers
    """One after the last node of the subtree."""
    scored: tuple[ScoredToken, ...]
    truncated: int
    """Sequences, one a request, that lost their beginning."""

    @property
    def depth(self) -> int:
        """Length of the longest sequence."""
        return int(self.depth_N.max(initial=-1)) + 1

    def __len__(self) -> int:
        """Number of nodes: no plan computes fewer positions."""
        return len(self.token_N)

    def measure(self, node: int) -> int:
        """Nodes of the subtree of `node`."""
        return int(self.end_N[node]) - node

    def find_fork(self, node: int) -> int:
        """The first node at or below `node` that has not exactly one child."""
        while node + 1 < self.end_N[node] and self.end_N[node + 1] == self.end_N[node]:
            node += 1
        return node

    def list_children(self, node: int) -> Iterator[int]:
        """Children of `node`; of the root above all sequences, for -1."""
        child, end = node + 1, len(self) if node < 0 else int(self.end_N[node])
        while child < end:
            yield child
            child = int(self.end_N[child])


def build_prefix_tree(pairs: Sequence[Pair], *, max_length: int) -> PrefixTree:
    """The tree of `pairs`: context and continuation without its last token, cut on the left to `max_length` tokens.

    >>> tree = build_prefix_tree([([1, 2], [3, 4]), ([1, 2], [5, 4])], max_length=8)
    >>> tree.token_N.tolist(), tree.depth_N.tolist(), tree.end_N.tolist()
    ([1, 2, 3, 5], [0, 1, 2, 2], [4, 4, 3, 4])
    >>> [(entry.node, entry.target, entry.request) for entry in tree.scored]
    [(1, 3, 0), (2, 4, 0), (1, 5, 1), (3, 4, 1)]
    """
    lengths = [len(context) + len(continuation) - 1 for context, continuation in pairs]
    inputs = [(*context, *continuation[:-1])[-max_length:] for context, continuation in pairs]
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    path: list[int] = []
    paths: dict[tuple[int, ...], tuple[int, ...]] = {}

    # In sorted order, each sequence leaves the path of the one before where it first differs.
    for sequence in sorted(set(inputs)):
        shared = 0
        while shared < min(len(path), len(sequence)) and tokens[path[shared]] == sequence[shared]:
            shared += 1
        for node in path[shared:]:
            ends[node] = len(tokens)
        del path[shared:]
        for token in sequence[shared:]:
            depths.append(len(path))
            path.append(len(tokens))
            tokens.append(token)
            ends.append(-1)
        paths[sequence] = tuple(path)
    for node in path:
        ends[node] = len(tokens)

    scored = []
    for request, (sequence, (_, continuation)) in enumerate(zip(inputs, pairs, strict=True)):
        nodes = paths[sequence][-len(continuation) :]
        scored += [ScoredToken(node, target, request) for node, target in zip(nodes, continuation, strict=True)]
    token_N, depth_N, end_N = (np.array(values, np.int64) for values in (tokens, depths, ends))
    truncated = sum(length > max_length for length in lengths)
    return PrefixTree(token_N, depth_N, end_N, tuple(scored), truncated)
