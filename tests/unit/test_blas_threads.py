"""Linear algebra of small matrices runs one thread, and as many as before afterwards."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from aftermix.blas_threads import hold_one_thread


def count_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    np.linalg.inv(np.eye(3))
    with threadpool_limits(limits=2):
        before = count_threads()
        assert 2 in before
        with hold_one_thread():
            assert set(count_threads()) == {1}
        assert count_threads() == before


def test_it_decorates_a_function() -> None:
    @hold_one_thread()
    def count() -> list[int]:
        return count_threads()

    with threadpool_limits(limits=2):
        assert set(count()) == {1}
