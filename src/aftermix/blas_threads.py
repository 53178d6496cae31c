"""One thread for the linear algebra of small matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def hold_one_thread() -> Iterator[None]:
    """Inside, or in a function that it decorates, libraries of linear algebra and OpenMP run one thread.

    With more, matrices of a few hundred rows take longer, on a busy machine ten times as long, and the last bits of a
    fit hang on their number.
    """
    with _open_controller().limit(limits=1):
        yield


@cache
def _open_controller() -> ThreadpoolController:
    # Once: it asks every loaded library. Whoever computes has loaded SciPy by then.
    return ThreadpoolController()
