"""Records of `iterate.json`: finished rounds, their gains, and why no other follows."""

from __future__ import annotations

from typing import Literal

from aftermix.runs.json_record import Finite, Interval, RunRecord

ITERATE_FILE = "iterate.json"


class RoundRecord(RunRecord):
    """One finished round: experts of a base, their best merge, and what it gained on test items."""

    round: int
    base: str
    """Model that the experts were trained from; folders of the run are told within it, here and below."""
    experts: dict[str, str]
    run: str
    """Run of the search or the mixture."""
    model: str
    """Merge that it found."""
    base_score: Finite
    score: Finite
    gain: Finite
    """Score of the merge minus that of the base, on the same test items."""
    interval: Interval
    """Of the gain, paired by item, at 90 %."""
    accepted: bool
    """True where the lower end is above 0."""


class IterateRecord(RunRecord):
    """`iterate.json`."""

    format: Literal["aftermix iterate"]
    version: Literal[1]
    rounds: tuple[RoundRecord, ...]
    stopped: Literal["no sure gain", "rounds"] | None
    """Reason that no round follows; null of a run that goes on."""
    model: str
    """Merge of the last accepted round; before there is one, the base."""
