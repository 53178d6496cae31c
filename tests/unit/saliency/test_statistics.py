"""Sums over inputs, against loops in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aftermix.saliency.statistics import ChannelSums, XStatistic, average_squares, sum_channels

ROWS = st.lists(st.lists(st.floats(-100, 100, width=16), min_size=3, max_size=3), min_size=1, max_size=9)


def twin(rows: list[list[float]], statistic: XStatistic) -> list[float]:
    """The definition, channel by channel and token by token."""
    count = len(rows)
    if statistic == "second_moment":
        return [math.fsum(row[channel] ** 2 for row in rows) / count for channel in range(3)]
    return [(math.fsum(row[channel] for row in rows) / count) ** 2 for channel in range(3)]


@given(ROWS, st.sampled_from(["second_moment", "mean_input"]), st.integers(1, 4))
def test_batches_add_up_to_the_mean_over_all_tokens(rows: list[list[float]], statistic: XStatistic, size: int) -> None:
    total = ChannelSums((5, 3), 1, torch.device("cpu"))
    for start in range(0, len(rows), size):
        batch = torch.tensor(rows[start : start + size], dtype=torch.float32)
        total.add(sum_channels(batch[None], statistic), len(batch))
    found = average_squares(total.sums_EC, total.tokens, statistic)
    assert found.dtype == torch.float32
    assert total.tokens == [len(rows)]
    # The mean may cancel: what float32 loses there is relative to the largest input.
    torch.testing.assert_close(found[0], torch.tensor(twin(rows, statistic)), rtol=1e-5, atol=1e-2)


def test_bfloat16_is_widened_before_it_is_squared() -> None:
    inputs = torch.full((3, 1), 1.0078125, dtype=torch.bfloat16)  # its square is no bfloat16 number
    assert sum_channels(inputs, "second_moment").item() == pytest.approx(3 * 1.0078125**2, rel=1e-7)


def test_small_batches_still_count_when_the_total_is_large() -> None:
    total = ChannelSums((1, 1), 1, torch.device("cpu"))
    total.add(torch.tensor([2.0**30]), 1)
    for _ in range(8):
        total.add(torch.tensor([1.0]), 1)
    assert total.sums_EC.item() == 2.0**30 + 8


def test_an_expert_without_a_token_has_zeros_and_never_nan() -> None:
    total = ChannelSums((2, 4, 3), 2, torch.device("cpu"))
    total.add(torch.tensor([2.0, 4.0, 6.0]), 2, expert=1)
    found = average_squares(total.sums_EC, total.tokens, "second_moment")
    assert found.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert total.tokens == [0, 2]
