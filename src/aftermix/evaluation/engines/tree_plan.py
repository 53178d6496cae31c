"""Forward passes over a prefix tree: beginnings shared by many rows are kept in a cache, the rest is packed in rows.

A row holds one subtree, or some of its branches; each of its tokens sees the cached tokens, those above it in the tree
and itself. B rows of a batch, T tokens of the longest, P cached tokens before them, S nodes that are scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from aftermix.evaluation.engines.prefix_tree import Pair, PrefixTree, ScoredToken, build_prefix_tree

LEAST_SAVED = 32
"""Positions that a cached beginning must save: a forward pass of its own costs about as much."""
LEAST_ROW = 256
"""Tokens that a row may hold in any case."""
ROW_LENGTHS = 3
"""Tokens of a row, in lengths of the longest request; more of them would see each other's masked scores in vain."""
LEAST_FILLED = 0.9
"""Part of its batch's longest row that each row has at least; the rest is padding."""
OPEN_ROWS = 64
"""Rows that are looked at for room."""


@dataclass(frozen=True)
class TreeBatch:
    """Rows that go through the model together, padded on the left; scored nodes come last in a row."""

    tokens_BT: torch.Tensor
    positions_BT: torch.Tensor
    first_BT: torch.Tensor
    """Number of the node; negative for padding."""
    end_BT: torch.Tensor
    """One after the last node of its subtree."""
    kept: int
    """Last tokens of each row whose logits are needed."""
    row_S: torch.Tensor
    column_S: torch.Tensor
    """Place of each scored node among the `kept` ones."""
    entry_Q: torch.Tensor
    """Index into the S scored nodes of each of Q targets."""
    target_Q: torch.Tensor
    requests: tuple[int, ...]
    """Request of each target."""

    @property
    def positions(self) -> int:
        """Positions that the pass computes, padding included."""
        return self.tokens_BT.numel()

    def build_mask(self, cached: int, dtype: torch.dtype) -> torch.Tensor:
        """(B, 1, T, P + T) additive mask: 0 for what a token sees, the least number of `dtype` for all else."""
        first_BT1, first_B1T = self.first_BT[:, :, None], self.first_BT[:, None, :]
        sees_BTT = (first_B1T <= first_BT1) & (first_BT1 < self.end_BT[:, None, :])
        rows, length = self.tokens_BT.shape
        mask = torch.zeros(rows, 1, length, cached + length, dtype=dtype, device=sees_BTT.device)
        mask[..., cached:].masked_fill_(~sees_BTT[:, None], torch.finfo(dtype).min)
        return mask


@dataclass(frozen=True)
class TreeStage:
    """A cached beginning, rows that go on from it, and longer beginnings that do."""

    beginning: TreeBatch | None
    """None for the stage above all sequences."""
    cached: int
    """Tokens in the cache once the beginning is there."""
    batches: tuple[TreeBatch, ...]
    stages: tuple[TreeStage, ...]


@dataclass(frozen=True)
class TreePlan:
    """All passes of a set of requests: a function of the requests and the batch size alone."""

    requests: int
    root: TreeStage
    tokens: int
    """Nodes of the tree, the least that any plan computes."""
    positions: int
    """Positions that the passes compute."""
    truncated: int
    depth: int
    """Length of the longest sequence."""


def build_tree_plan(pairs: Sequence[Pair], *, batch_size: int, max_length: int, device: torch.device) -> TreePlan:
    """Plan the passes of `pairs`; one holds at most the tokens of `batch_size` of the longest requests."""
    lengths = [len(context) + len(continuation) - 1 for context, continuation in pairs]
    tree = build_prefix_tree(pairs, max_length=max_length)
    longest = min(max(lengths), max_length)

    budget = batch_size * longest
    limit = min(budget, max(ROW_LENGTHS * longest, LEAST_ROW))
    planner = _TreePlanner(tree, budget=budget, limit=limit, device=device)
    root = planner.plan_stage(-1, beginning=None, cached=0)
    truncated = sum(length > max_length for length in lengths)
    return TreePlan(len(pairs), root, len(tree), planner.positions, truncated, depth=longest)


def fill_rows(rows: Sequence[Sequence[int]], capacity: int) -> list[list[int]]:
    """Rows put together, first fit by decreasing length, so that few have room left; repeated nodes stand once.

    >>> fill_rows([[0, 1, 2], [0, 3], [4, 5], [6]], 4)
    [[0, 1, 2, 6], [0, 3, 4, 5]]
    """
    full: list[set[int]] = []
    opened: list[set[int]] = []
    for row in sorted(rows, key=lambda row: (-len(row), row[0])):
        nodes = set(row)
        place = next((other for other in opened if len(other) + len(nodes) <= capacity), None)
        if place is not None:
            place |= nodes
            continue
        opened.append(nodes)
        if len(opened) > OPEN_ROWS:
            full.append(opened.pop(0))
    return [sorted(nodes) for nodes in (*full, *opened)]


@dataclass
class _TreePlanner:
    tree: PrefixTree
    budget: int
    """Most tokens of a pass, cached ones included."""
    limit: int
    """Most tokens of a row, unless it is one sequence."""
    device: torch.device
    positions: int = 0
    waiting: dict[int, list[ScoredToken]] = field(default_factory=dict)
    """Scored tokens by node, until a pass takes them: a node that several rows repeat is scored in the first."""

    def __post_init__(self) -> None:
        by_node: dict[int, list[ScoredToken]] = defaultdict(list)
        for entry in self.tree.scored:
            by_node[entry.node].append(entry)
        self.waiting = dict(by_node)

    def plan_stage(self, node: int, *, beginning: TreeBatch | None, cached: int) -> TreeStage:
        """The stage whose cache ends with `node`."""
        rows: list[list[int]] = []
        deeper: list[tuple[list[int], int]] = []
        limit = min(self.limit, self.budget - cached)
        for lead, children in self._open(node, [], limit):
            if children is None:
                deeper.append((lead, lead[-1]))
            else:
                rows.append([*lead, *(n for child in children for n in range(child, int(self.tree.end_N[child])))])

        filled = fill_rows(rows, min(max(LEAST_ROW, *map(len, rows)), limit)) if rows else []
        batches = tuple(self._pack(chunk) for chunk in self._share_out(filled, cached))
        stages = tuple(
            self.plan_stage(fork, beginning=self._pack([lead]), cached=cached + len(lead)) for lead, fork in deeper
        )
        return TreeStage(beginning, cached, batches, stages)

    def _open(self, node: int, lead: list[int], limit: int) -> Iterator[tuple[list[int], list[int] | None]]:
        """Rows and beginnings below `node`, `lead` being the uncached tokens above them.

        Each is (lead, branches of a row), or (lead, None): a beginning that is to be cached.
        """
        row: list[int] = []
        size = len(lead)
        for child in self.tree.list_children(node):
            if len(lead) + self.tree.measure(child) > limit:
                yield from self._open_large(child, lead, limit)
                continue

            # Branches share a row for the sake of what they would repeat.
            if row and (not lead or size + self.tree.measure(child) > limit):
                yield lead, row
                row, size = [], len(lead)
            row.append(child)
            size += self.tree.measure(child)
        if row:
            yield lead, row

    def _open_large(self, child: int, lead: list[int], limit: int) -> Iterator[tuple[list[int], list[int] | None]]:
        fork = self.tree.find_fork(child)
        longer = [*lead, *range(child, fork + 1)]
        below = self.tree.measure(fork) - 1
        if below == 0:
            yield lead, [child]  # one sequence, longer than a row should be
            return

        rows_below = max(2, -(-below // limit))
        if len(longer) * (rows_below - 1) >= LEAST_SAVED:
            yield longer, None
        else:
            yield from self._open(fork, longer, limit)

    def _share_out(self, rows: list[list[int]], cached: int) -> Iterator[list[list[int]]]:
        """Batches of rows of similar length, the longest first."""
        rows = sorted(rows, key=lambda row: (-len(row), row[0]))
        batch: list[list[int]] = []
        for row in rows:
            longest = len(batch[0]) if batch else len(row)
            if batch and (len(row) < LEAST_FILLED * longest or (len(batch) + 1) * (cached + longest) > self.budget):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _pack(self, rows: Sequence[Sequence[int]]) -> TreeBatch:
        longest = max(map(len, rows))
        ordered: list[list[int]] = []
        row_S: list[int] = []
        column_S: list[int] = []
        entry_Q: list[int] = []
        target_Q: list[int] = []
        requests: list[int] = []

        taken = [[node for node in row if node in self.waiting] for row in rows]
        kept = max(map(len, taken))
        for number, (row, scored) in enumerate(zip(rows, taken, strict=True)):
            last = [node for node in scored if node in self.waiting]  # a row before it may have taken some
            ordered.append([node for node in row if node not in {*last}] + last)
            for place, node in enumerate(last):
                for entry in self.waiting.pop(node):
                    entry_Q.append(len(row_S))
                    target_Q.append(entry.target)
                    requests.append(entry.request)
                row_S.append(number)
                column_S.append(kept - len(last) + place)

        self.positions += len(rows) * longest
        filled = [[-1 - column for column in range(longest - len(row))] + row for row in ordered]
        tree = self.tree
        return TreeBatch(
            tokens_BT=self._place([[int(tree.token_N[n]) if n >= 0 else 0 for n in row] for row in filled]),
            positions_BT=self._place([[int(tree.depth_N[n]) if n >= 0 else 0 for n in row] for row in filled]),
            first_BT=self._place(filled),
            end_BT=self._place([[int(tree.end_N[n]) if n >= 0 else n + 1 for n in row] for row in filled]),
            kept=max(kept, 1),
            row_S=self._place(row_S),
            column_S=self._place(column_S),
            entry_Q=self._place(entry_Q),
            target_Q=self._place(target_Q),
            requests=tuple(requests),
        )

    def _place(self, values: Sequence[object]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)
