"""The finalists of a search in a sentence, for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence

from aftermix.runs.answers.certificate_records import EliminationRecord
from aftermix.runs.reader import RunResult
from aftermix.runs.records import BestRecord, CandidateRecord


def describe_elimination(best: RunResult | None) -> str:
    """A sentence on the finalists that were dropped; empty for a run that measured all at once."""
    elimination = best.elimination if isinstance(best, BestRecord) else None
    return compose_elimination(elimination, best.candidates) if best is not None and elimination is not None else ""


def compose_elimination(elimination: EliminationRecord, candidates: Sequence[CandidateRecord]) -> str:
    """`Of 3 finalists trial 7 was surely beaten after round 1 of 3 on select items: 8,000 of 12,000 tokens.`"""
    dropped = [
        f"trial {candidate.trial} was surely beaten after round {candidate.dropped_after}"
        for candidate in candidates
        if candidate.dropped_after is not None
    ]
    if not dropped:
        return f"None of {len(candidates)} finalists was surely beaten before all select items were measured."
    return (
        f"Of {len(candidates)} finalists {', '.join(dropped)} of {elimination.rounds} on select items, and measured no "
        f"further: {elimination.tokens:,} of {elimination.tokens_whole:,} tokens."
    )
