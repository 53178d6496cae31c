"""Sentences on the certificate of a search."""

from __future__ import annotations

from typing import Any

from aftermix.report.certificate_text import _walk_sentences
from aftermix.report.number_format import POINTS
from aftermix.runs.answers.certificate_records import CertificateRecord


def describe(**changes: Any) -> list[str]:
    values: dict[str, Any] = {
        "status": "met",
        "probability": 0.4,
        "precision": 0.006,
        "bound": 0.0312,
        "bound_items_fixed": 0.004,
        "runs": 16,
        "items": 1600,
        "tokens": 123_456,
        "model": "response",
        "items_factor": 4.26,
    }
    return list(_walk_sentences(CertificateRecord(**(values | changes)), POINTS))


BOUND = "On other items of the same kind no merge within the ranges is better than the winner by more than 3.1 points"


def test_a_search_that_is_settled_says_by_what() -> None:
    assert describe() == [
        "The search ended after 16 trials: on its items no merge is better by more than 0.4 points, where 0.6 were "
        "asked for.",
        f"{BOUND} (95 %); 4.3 times as many search items would halve that.",
    ]


def test_a_flat_search_says_that_its_winner_is_a_prior() -> None:
    first, second = describe(status="flat", items_factor=None)
    assert first == "The winner is a prior: no merge within the ranges is better by more than the items can tell."
    assert second == f"{BOUND} (95 %)."


def test_a_spent_budget_is_told_with_its_tokens() -> None:
    assert describe(status="budget", bound=None)[0] == "The budget ended the search after 16 trials (123,456 tokens)."


def test_all_trials_without_a_model_have_nothing_to_say() -> None:
    assert describe(status="trials", bound=None, bound_items_fixed=None, model="none") == []
