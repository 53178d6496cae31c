"""Sentences on the optimism of a search."""

from __future__ import annotations

import pytest

from aftermix.report.number_format import POINTS
from aftermix.report.optimism_text import compose_expectation
from aftermix.runs.answers.certificate_records import OptimismRecord, SplitOptimismRecord


@pytest.mark.parametrize(("finalists", "named"), [(3, " and 3 finalists"), (1, "")])
def test_the_simulated_optimism_is_told_for_both_splits(finalists: int, named: str) -> None:
    record = OptimismRecord(
        repetitions=200,
        runs=16,
        finalists=finalists,
        search=SplitOptimismRecord(mean=0.0124, deviation=0.021),
        select=SplitOptimismRecord(mean=-0.0001, deviation=0.0149),
    )
    assert compose_expectation(record, POINTS) == (
        f"Choosing among 16 trials{named} flatters a winner by 1.2 points on search and 0.0 on select items (mean of "
        "200 simulated repetitions, deviations 2.1 and 1.5), and not at all on test items."
    )
