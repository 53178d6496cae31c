"""Nodes of a prefix tree that go through the model together, settled before any tensor is made.

A row holds one subtree, or some of its branches; a beginning that many rows share is cached before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aftermix.evaluation.engines.prefix_tree import PrefixTree

LEAST_SAVED = 32
"""Positions that a cached beginning must save: a forward pass of its own costs about as much."""
LEAST_ROW = 128
"""Tokens that a row may hold in any case: longer ones compute more masked scores, shorter ones repeat more tokens."""
LONGER_ROW = 256
"""The same where a pass has no room for two rows: one then fills it better."""
ROW_LENGTHS = 1.5
"""Tokens of a row, in lengths of the longest request; more of them would see each other's masked scores in vain."""
LEAST_FILLED = 0.9
"""Part of its batch's longest row that each row has at least; the rest is padding."""
OPEN_ROWS = 64
"""Rows that are looked at for room."""
Row = list[int]
"""Nodes of one row of a pass, in ascending order."""


@dataclass(frozen=True)
class StageLayout:
    """A beginning that is cached, rows that go on from it, and longer beginnings that do."""

    lead: Row
    """Nodes that the cache gains; none for the stage above all sequences."""
    cached: int
    """Nodes in the cache once they are there."""
    batches: tuple[list[Row], ...]
    stages: tuple[StageLayout, ...]

    def list_passes(self) -> Iterator[list[Row]]:
        """Rows of every pass, in the order in which they are run."""
        if self.lead:
            yield [self.lead]
        yield from self.batches
        for stage in self.stages:
            yield from stage.list_passes()

    def count_positions(self) -> int:
        """Positions that all passes compute, padding included."""
        return sum(len(rows) * max(map(len, rows)) for rows in self.list_passes())


def lay_out_tree(tree: PrefixTree, *, batch_size: int) -> StageLayout:
    """Share the nodes out among passes; one holds at most the tokens of `batch_size` of the longest sequences."""
    budget = batch_size * tree.depth
    least = LEAST_ROW if budget >= 2 * LEAST_ROW else LONGER_ROW
    limit = min(budget, max(int(ROW_LENGTHS * tree.depth), least))
    return _TreePlanner(tree, budget=budget, limit=limit, least=least).plan_stage(-1, lead=[], cached=0)


def fill_rows(rows: Sequence[Sequence[int]], capacity: int) -> list[Row]:
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


@dataclass(frozen=True)
class _TreePlanner:
    tree: PrefixTree
    budget: int
    """Most tokens of a pass, cached ones included."""
    limit: int
    """Most tokens of a row, unless it is one sequence."""
    least: int
    """Tokens that a row may hold in any case."""

    def plan_stage(self, node: int, *, lead: Row, cached: int) -> StageLayout:
        """The stage whose cache ends with `node`."""
        rows: list[Row] = []
        deeper: list[Row] = []
        limit = min(self.limit, self.budget - cached)
        for beginning, children in self._open(node, [], limit):
            if children is None:
                deeper.append(beginning)
            else:
                rows.append([*beginning, *(n for child in children for n in range(child, int(self.tree.end_N[child])))])

        filled = fill_rows(rows, min(max(self.least, *map(len, rows)), limit)) if rows else []
        batches = tuple(self._share_out(filled, cached))
        stages = tuple(self.plan_stage(row[-1], lead=row, cached=cached + len(row)) for row in deeper)
        return StageLayout(lead, cached, batches, stages)

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

    def _share_out(self, rows: list[Row], cached: int) -> Iterator[list[Row]]:
        """Batches of rows of similar length, the longest first."""
        rows = sorted(rows, key=lambda row: (-len(row), row[0]))
        batch: list[Row] = []
        for row in rows:
            longest = len(batch[0]) if batch else len(row)
            if batch and (len(row) < LEAST_FILLED * longest or (len(batch) + 1) * (cached + longest) > self.budget):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch
