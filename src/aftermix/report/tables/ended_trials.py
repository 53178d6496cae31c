"""Rows of trials by how they ended: those that failed, and counts by origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aftermix.report.tables.points import format_point
from aftermix.report.trials import KINDS, classify_trial
from aftermix.runs.trials import Trial


@dataclass(frozen=True)
class FailureRow:
    """One trial without a score, and the reason."""

    number: int
    state: str
    weights: str
    reason: str


@dataclass(frozen=True)
class OriginRow:
    """Trials of one origin, counted by how they ended."""

    label: str
    complete: int
    failed: int
    pruned: int


def list_failures(trials: Sequence[Trial]) -> tuple[FailureRow, ...]:
    """Every failed or pruned trial."""
    return tuple(
        FailureRow(
            trial.number,
            trial.state,
            format_point(trial.weights, trial.settings),
            trial.error or "no reason was recorded",
        )
        for trial in trials
        if trial.state == "failed" or (trial.state == "pruned" and trial.error)
    )


def count_origins(trials: Sequence[Trial]) -> tuple[OriginRow, ...]:
    """Counts by origin; origins without a trial are left out."""
    rows = []
    for kind in KINDS:
        states = [trial.state for trial in trials if classify_trial(trial) == kind.key]
        if states:
            rows.append(OriginRow(kind.label, states.count("complete"), states.count("failed"), states.count("pruned")))
    return tuple(rows)
