"""Forward passes over a prefix tree: beginnings shared by many rows are kept in a cache, the rest is packed in rows.

Each token of a row sees the cached tokens, those above it in the tree and itself. B rows of a batch, T tokens of the
longest, P cached tokens before them, S nodes that are scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from aftermix.evaluation.blocks.plan_blocks import hash_plan
from aftermix.evaluation.engines.prefix_tree import Pair, PrefixTree, ScoredToken, build_prefix_tree
from aftermix.evaluation.engines.tree_layout import Row, StageLayout, lay_out_tree


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

    def select_scored(self, values_BTX: torch.Tensor) -> torch.Tensor:
        """(S, X) those of the scored nodes among values of all tokens or of the kept ones."""
        return values_BTX[:, -self.kept :][self.row_S, self.column_S]

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

    def count_passes(self) -> int:
        """Number of passes of the stage and of those below it."""
        below = sum(stage.count_passes() for stage in self.stages)
        return (self.beginning is not None) + len(self.batches) + below

    def list_passes(self) -> Iterator[TreeBatch]:
        """All passes of the stage and of those below it, in the order in which they are run."""
        if self.beginning is not None:
            yield self.beginning
        yield from self.batches
        for stage in self.stages:
            yield from stage.list_passes()


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

    @cached_property
    def passes(self) -> tuple[TreeBatch, ...]:
        """All passes, in the order in which they are run."""
        return tuple(self.root.list_passes())

    @cached_property
    def content_hash(self) -> str:
        """Hash of all that the plan computes."""
        return hash_plan(self)


def build_tree_plan(pairs: Sequence[Pair], *, batch_size: int, max_length: int, device: torch.device) -> TreePlan:
    """Plan the passes of `pairs`; one holds at most the tokens of `batch_size` of the longest requests."""
    tree = build_prefix_tree(pairs, max_length=max_length)
    return pack_tree_plan(tree, lay_out_tree(tree, batch_size=batch_size), requests=len(pairs), device=device)


def pack_tree_plan(tree: PrefixTree, layout: StageLayout, *, requests: int, device: torch.device) -> TreePlan:
    """Make the tensors of `layout`, whose nodes are those of `tree`."""
    root = _TreePacker.build(tree, device).pack_stage(layout)
    positions = layout.count_positions()
    return TreePlan(requests, root, len(tree), positions, tree.truncated, tree.depth)


@dataclass(frozen=True)
class _TreePacker:
    tree: PrefixTree
    device: torch.device
    waiting: dict[int, list[ScoredToken]]
    """Scored tokens by node, until a pass takes them: a node that several rows repeat is scored in the first."""

    @staticmethod
    def build(tree: PrefixTree, device: torch.device) -> _TreePacker:
        waiting: dict[int, list[ScoredToken]] = defaultdict(list)
        for entry in tree.scored:
            waiting[entry.node].append(entry)
        return _TreePacker(tree, device, dict(waiting))

    def pack_stage(self, layout: StageLayout) -> TreeStage:
        """The stage of `layout`, its passes packed in the order in which they are run."""
        beginning = self._pack([layout.lead]) if layout.lead else None
        batches = tuple(self._pack(rows) for rows in layout.batches)
        return TreeStage(beginning, layout.cached, batches, tuple(self.pack_stage(stage) for stage in layout.stages))

    def _pack(self, rows: Sequence[Row]) -> TreeBatch:
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
