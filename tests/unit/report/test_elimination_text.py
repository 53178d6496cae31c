"""The sentence on finalists."""

from __future__ import annotations

from aftermix.report.elimination_text import compose_elimination
from aftermix.runs.answers.certificate_records import EliminationRecord
from aftermix.runs.records import CandidateRecord, ScoresRecord

RECORD = EliminationRecord(rounds=3, error=0.05, tokens=8000, tokens_whole=12000)


def candidate(trial: int, dropped_after: int | None = None) -> CandidateRecord:
    scores = ScoresRecord(objective=(0.5,), interval=(None,))
    return CandidateRecord(trial=trial, weights={"a": 0.5}, search=scores, select=scores, dropped_after=dropped_after)


def test_dropped_finalists_are_named_with_what_they_spared() -> None:
    assert compose_elimination(RECORD, [candidate(3), candidate(7, 1), candidate(9, 2)]) == (
        "Of 3 finalists trial 7 was surely beaten after round 1, trial 9 was surely beaten after round 2 of 3 on "
        "select items, and measured no further: 8,000 of 12,000 tokens."
    )


def test_finalists_that_none_surely_beats_are_told_so() -> None:
    expected = "None of 2 finalists was surely beaten before all select items were measured."
    assert compose_elimination(RECORD, [candidate(3), candidate(7)]) == expected
