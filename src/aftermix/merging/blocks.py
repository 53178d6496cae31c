"""Large tensors in blocks, and blocks on several threads with their order kept.

Working block by block keeps the arithmetic in the processor's cache and the memory independent of a tensor's size.
Results do not depend on the blocks: rules are elementwise once a tensor has been surveyed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from aftermix.checkpoints.model import Span
from aftermix.merging.temporaries import keep_freed_memory

BLOCK_ELEMENTS = 1 << 18
"""Most elements of a block. Part of the format of random masks, which are drawn block by block."""
LOOKAHEAD = 6
"""Blocks in work or waiting, for each thread."""

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def list_block_spans(shape: tuple[int, ...], most: int = BLOCK_ELEMENTS) -> list[Span]:
    """Half-open span `[start, stop)` of each block of a flattened tensor; whole rows where a row fits in a block.

    A block has at most `most` elements.

    >>> list_block_spans((3,)), list_block_spans(()), list_block_spans((0, 4))
    ([(0, 3)], [(0, 1)], [])
    >>> list_block_spans((3, 150_000))
    [(0, 150000), (150000, 300000), (300000, 450000)]
    """
    elements = int(torch.Size(shape).numel())
    row = shape[-1] if shape else 1
    size = max(1, most // row) * row if 0 < row <= most else most
    return [(start, min(start + size, elements)) for start in range(0, elements, size)]


@contextmanager
def start_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute on one core: the parallelism is over blocks, not inside an operation."""
    keep_freed_memory()
    with ThreadPoolExecutor(count, "aftermix", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_in_order(
    pool: ThreadPoolExecutor, function: Callable[[Unit], Result], units: Iterable[Unit], *, threads: int
) -> Iterator[Result]:
    """`function` of each unit on the threads of `pool`, in order, with few results waiting at any time."""
    waiting: deque[Future[Result]] = deque()
    for unit in units:
        waiting.append(pool.submit(function, unit))
        if len(waiting) >= LOOKAHEAD * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
