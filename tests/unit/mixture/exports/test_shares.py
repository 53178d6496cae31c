"""Counts of a domain, and budgets shared out under a cap on repetition, against slow twins."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aftermix.errors import MixtureError
from aftermix.mixture.exports.domain_data import CURVE_STEPS, DomainData, count_domain, read_domain_data
from aftermix.mixture.exports.epoch_caps import allot, cap_shares, count_unrepeated_tokens

SHARES = st.lists(st.floats(0.001, 1), min_size=1, max_size=6)


def flat(examples: int, tokens: int) -> DomainData:
    return DomainData(examples, tokens, (0, tokens))


def named(values: list[float]) -> dict[str, float]:
    return {f"d{number}": value for number, value in enumerate(values)}


def shares_reference(ratios: dict[str, float], most: dict[str, float]) -> dict[str, float]:
    """The scale found by halving."""
    low, high = 0.0, 1.0
    while sum(min(most[name], high * ratio) for name, ratio in ratios.items()) < 1 and high < 1e12:
        high *= 2
    for _ in range(200):
        scale = (low + high) / 2
        reached = sum(min(most[name], scale * ratio) for name, ratio in ratios.items())
        low, high = (scale, high) if reached < 1 else (low, scale)
    return {name: min(most[name], high * ratio) for name, ratio in ratios.items()}


@given(SHARES, st.lists(st.floats(0.05, 3), min_size=6, max_size=6))
def test_shares_agree_with_a_scale_found_by_halving(values: list[float], caps: list[float]) -> None:
    ratios = {name: value / sum(values) for name, value in named(values).items()}
    most = dict(zip(ratios, caps, strict=False))
    assume(abs(sum(most.values()) - 1) > 1e-6)  # there rounding decides
    if sum(most.values()) < 1:
        with pytest.raises(ValueError, match="less than 1"):
            cap_shares(ratios, most)
        return
    found = cap_shares(ratios, most)
    assert found == pytest.approx(shares_reference(ratios, most), rel=1e-6, abs=1e-8)
    assert math.fsum(found.values()) == pytest.approx(1)


def test_without_a_cap_in_reach_the_ratios_stand() -> None:
    ratios = {"ja": 0.7, "math": 0.3}
    assert cap_shares(ratios, {"ja": 1.0, "math": 1.0}) == pytest.approx(ratios)


def test_what_a_cap_cuts_goes_to_the_others_in_proportion() -> None:
    data = {"ja": flat(10, 1000), "math": flat(100, 20_000), "code": flat(50, 20_000)}
    found = allot({"ja": 0.5, "math": 0.3, "code": 0.2}, data, budget_tokens=10_000, max_epochs=2)
    assert {name: one.ratio for name, one in found.items()} == pytest.approx({"ja": 0.2, "math": 0.48, "code": 0.32})
    assert [one.wanted for one in found.values()] == [0.5, 0.3, 0.2]
    assert [one.tokens for one in found.values()] == [2000, 4800, 3200]
    assert [one.epochs for one in found.values()] == pytest.approx([2, 0.24, 0.16])
    assert [one.examples for one in found.values()] == pytest.approx([20, 24, 8])


def test_a_budget_beyond_all_data_is_refused_with_the_numbers() -> None:
    data = {"ja": flat(10, 1000), "math": flat(100, 500)}
    with pytest.raises(MixtureError) as error:
        allot({"ja": 0.5, "math": 0.5}, data, budget_tokens=7000, max_epochs=4)
    assert str(error.value) == (
        "tokens: a budget of 7,000 tokens needs more than the 1,500 tokens of ja, math give in 4 epochs, which are "
        "6,000. Lower the budget, raise --max-epochs, or bring more data."
    )
    exactly = allot({"ja": 0.5, "math": 0.5}, data, budget_tokens=6000, max_epochs=4)
    assert [one.epochs for one in exactly.values()] == pytest.approx([4, 4])


def test_the_largest_budget_without_a_repeat_repeats_nothing() -> None:
    ratios, data = {"ja": 0.9, "math": 0.1}, {"ja": flat(3, 300), "math": flat(9, 900)}
    assert count_unrepeated_tokens(ratios, data) == 333
    found = allot(ratios, data, budget_tokens=333, max_epochs=1)
    assert max(one.epochs for one in found.values()) == pytest.approx(1, abs=2e-3)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=700))
def test_counts_agree_with_plain_sums(lengths: list[int]) -> None:
    if not any(lengths):
        with pytest.raises(MixtureError, match="its data holds no tokens"):
            count_domain(lengths, where="ja")
        return
    found = count_domain(lengths, where="ja")
    assert (found.examples, found.tokens) == (len(lengths), sum(lengths))
    assert read_domain_data(found.as_json()) == found
    step = math.ceil(len(lengths) / CURVE_STEPS) + 1
    for examples in range(0, len(lengths) + 1, 1 + len(lengths) // 20):
        before, behind = sum(lengths[: max(examples - step, 0)]), sum(lengths[: examples + step])
        assert before <= found.tokens_of_first(examples) <= behind


def test_the_first_examples_of_sorted_data_hold_fewer_tokens_than_the_mean_says() -> None:
    lengths = list(range(1, 1001))
    found = count_domain(lengths, where="ja")
    assert found.mean_tokens == 500.5
    assert found.tokens_of_first(500) == pytest.approx(sum(lengths[:500]), rel=0.01)
    wanted = bisect_left([sum(lengths[:count]) for count in range(1001)], 100_000)
    assert found.first_with(100_000) == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize("broken", [{}, {"examples": 2, "tokens": 5, "curve": [0, 4]}, {"examples": 1, "tokens": "x"}])
def test_counts_that_are_not_counts_are_told(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        read_domain_data(broken)
