"""A flattened tensor a run of elements at a time, and the rows that a run crosses."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aftermix.checkpoints.model import Span

SPAN_ELEMENTS = 1 << 16
"""Most elements of a run: long enough for the speed of memory. glibc before 2.38 may lose a temporary of this length
for every tensor, so it is also short."""
SAMPLE_RUNS, SAMPLE_ELEMENTS = 4, 1 << 12
"""Runs of a tensor's sample, and elements of each."""


def split_into_spans(elements: int, *, size: int = SPAN_ELEMENTS) -> list[Span]:
    """Spans that cover `elements` once, in order.

    >>> split_into_spans(5, size=2), split_into_spans(0)
    ([(0, 2), (2, 4), (4, 5)], [])
    """
    return [(start, min(start + size, elements)) for start in range(0, elements, size)]


def list_sample_spans(elements: int) -> list[Span]:
    """Spans of the sample by which tensors are compared without reading them: all of a small tensor, else four runs.

    The runs are evenly spread, the first elements and the last among them.

    >>> list_sample_spans(10_000), list_sample_spans(0), list_sample_spans(100_000)[:2]
    ([(0, 10000)], [], [(0, 4096), (31968, 36064)])
    """
    if elements <= SAMPLE_RUNS * SAMPLE_ELEMENTS:
        return [(0, elements)] if elements else []
    starts = [number * (elements - SAMPLE_ELEMENTS) // (SAMPLE_RUNS - 1) for number in range(SAMPLE_RUNS)]
    return [(start, start + SAMPLE_ELEMENTS) for start in starts]


def compute_row_length(shape: tuple[int, ...]) -> int:
    """Elements of a row of the 2-D view: the last dimension; a vector or a scalar is one row.

    >>> tuple(map(compute_row_length, ((4, 3), (2, 4, 3), (7,), (), (2, 0))))
    (3, 3, 7, 1, 1)
    """
    return max(1, shape[-1] if len(shape) > 1 else int(torch.Size(shape).numel()))


def count_rows(shape: tuple[int, ...]) -> int:
    """Rows of the 2-D view."""
    return -(-int(torch.Size(shape).numel()) // compute_row_length(shape))


def cut_rows(values: torch.Tensor, span: Span, row: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """The run `values` cut where rows of `row` elements begin and end, whole rows together.

    Yields the rows that a part belongs to, and the part as a view of shape (rows, elements of each).

    >>> [(rows.start, rows.stop, part.tolist()) for rows, part in cut_rows(torch.arange(2, 9), (2, 9), 3)]
    [(0, 1, [[2]]), (1, 3, [[3, 4, 5], [6, 7, 8]])]
    """
    start, end = span
    first = min(end, -(-start // row) * row)
    last = max(first, end // row * row)
    for low, high in ((start, first), (first, last), (last, end)):
        if low < high:
            rows = slice(low // row, -(-high // row))
            yield rows, values[low - start : high - start].view(rows.stop - rows.start, -1)
