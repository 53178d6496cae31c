"""Figures of the study of mixtures: utilities, ranks, offsets; its mixtures and sub-domains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from studies.mergemix.domains import CAPABILITIES, DOMAINS, parts
from studies.mergemix.figures import (
    OVERALL,
    bits_of,
    correlation,
    line,
    regret,
    reproduced,
    utilities,
    utility_of,
)
from studies.mergemix.plan import checked


def row(*bits: float) -> dict[str, float]:
    return dict(zip(CAPABILITIES, bits, strict=True))


MERGED = [row(1, 1, 1, 1, 1), row(2, 1, 1, 1, 2), row(3, 1, 1, 1, 4)]
TRAINED = [row(3, 1, 1, 1, 1), row(5, 1, 1, 1, 2), row(7, 1, 1, 1, 4)]
RESULT: dict[str, Any] = {
    "base": row(2, 2, 2, 2, 2),
    "merged": [row(1, 4, 1, 2, 1), row(2, 3, 2, 3, 2), row(3, 2, 4, 1, 4)],
    "trained": [row(3, 8, 1, 2, 1), row(5, 6, 2, 3, 2), row(7, 4, 4, 1, 4)],
    "short": {"mergemix": row(1, 2, 1, 2, 1)},
}


def test_utility_is_the_mean_of_z_scores_of_fewer_bits() -> None:
    trained = RESULT["trained"]
    table = -np.array([[one[name] for name in CAPABILITIES] for one in trained])
    expected = ((table - table.mean(axis=0)) / table.std(axis=0)).mean(axis=1)
    assert utilities(trained, trained) == pytest.approx(expected)
    own = -np.array([1.0, 2.0, 1.0, 2.0, 1.0])
    assert utility_of(RESULT, "short", "mergemix") == pytest.approx(
        float(((own - table.mean(axis=0)) / table.std(axis=0)).mean())
    )
    assert bits_of(RESULT, "short", "mergemix") == pytest.approx(100 * np.mean([0.5, 1, 0.5, 1, 0.5]))


def test_a_line_and_an_offset_do_not_change_the_ranks() -> None:
    found = correlation(RESULT)
    assert [found[name] for name in CAPABILITIES] == [1.0] * 5
    assert found[OVERALL] == 1.0
    assert regret(RESULT) == 0.0
    slope, offset = line(RESULT, "ja")
    assert (slope, offset) == (pytest.approx(2.0), pytest.approx(150.0))


def test_reproduction_is_over_all_pairs_of_seeds() -> None:
    turned = RESULT | {"trained": RESULT["trained"][::-1]}
    assert reproduced([RESULT, RESULT, turned])["ja"].value == pytest.approx((1 - 1 - 1) / 3)
    assert reproduced([RESULT]) == {}


def test_mixtures_that_are_trained_are_distinct_and_none_is_of_one_domain() -> None:
    found = checked({"ja": 1, "math": 7, "code": 3, "problems": 4})
    rows = [tuple(shares[name] for name in DOMAINS) for shares in found.values()]
    assert len({tuple(round(share, 9) for share in one) for one in rows}) == len(rows) == 13
    assert all(sum(one) == pytest.approx(1) and max(one) < 0.6 and min(one) > 0 for one in rows)


def test_halves_part_what_is_unlike_and_are_equal_in_size() -> None:
    words = ["the cat sat on the mat ", "for value in range(3): print(value) "]
    texts = [words[number % 2] * (3 + number // 10) for number in range(40)]
    first, second = parts(texts)
    assert sorted([*first, *second]) == sorted(texts)
    sizes = [sum(map(len, half)) for half in (first, second)]
    assert abs(sizes[0] - sizes[1]) < 0.2 * sum(sizes)
    kinds = [{text[:3] for text in half} for half in (first, second)]
    assert min(len(kind) for kind in kinds) == 1
