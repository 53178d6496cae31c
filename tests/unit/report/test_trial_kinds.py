"""Words of the page for the strategy and for where a trial came from."""

from __future__ import annotations

import pytest

from aftermix.config import SearchConfig
from aftermix.report.context import _describe_strategy
from aftermix.report.trials import classify_trial
from aftermix.runs.trials import Trial


@pytest.mark.parametrize(
    ("origin", "kind"),
    [
        ("base", "design"),
        ("single", "design"),
        ("prior", "prior"),
        ("sampled optimum", "response"),
        ("predicted front", "response"),
        ("sampler", "sampler"),
        ("run#3", "imported"),
    ],
)
def test_a_trial_is_told_by_its_origin(origin: str, kind: str) -> None:
    assert classify_trial(Trial(number=0, state="complete", weights={"ja": 0.3}, origin=origin)) == kind


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "by response, at most 100 trials in batches of 4"),
        ({"startup": 8, "batch": 1}, "by response, at most 100 trials, first design 8"),
        ({"strategy": "tpe"}, "preset default, 100 trials in batches of 4, start-up 20"),
        ({"preset": "paper"}, "preset paper, 100 trials, start-up 20"),
        ({"strategy": "random", "trials": 8}, "random points, 8 trials in batches of 4"),
    ],
)
def test_a_strategy_is_told_in_a_line(options: dict[str, object], told: str) -> None:
    assert _describe_strategy(SearchConfig.model_validate(options)) == told
