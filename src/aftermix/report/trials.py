"""Words and marks of the report for a single trial, and the trials that stand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aftermix.report.number_format import ScoreScale, format_setting, format_weight, shorten
from aftermix.runs.trials import Trial, quote_setting


@dataclass(frozen=True)
class TrialKind:
    """An origin of trials: its name and the marker it is drawn with."""

    key: str
    label: str
    marker: str
    filled: bool


KINDS = (
    TrialKind("imported", "imported", "s", False),
    TrialKind("prior", "prior", "D", True),
    TrialKind("startup", "start-up", "o", False),
    TrialKind("random", "random", "o", False),
    TrialKind("sampler", "sampler", "o", True),
    TrialKind("response", "response", "^", True),
    TrialKind("design", "design", "o", True),
)


SEARCHED = ("prior", "startup", "random", "sampler")
"""Origins of a search's own points; a mixture has many more."""
RESPONDED = ("sampled optimum", "predicted front")
"""Origins of points that a response proposed."""


def classify_trial(trial: Trial) -> str:
    """Origin of a trial's weights: imported, prior, startup, random, sampler, response, or a design.

    Base and single vectors are of the first design, all points of a mixture run of its own.
    """
    if trial.is_imported:
        return "imported"
    if trial.origin is None:
        return "sampler"
    if trial.origin in RESPONDED:
        return "response"
    return trial.origin if trial.origin in SEARCHED else "design"


def describe_trial(trial: Trial, scale: ScoreScale) -> str:
    """`trial 37: 61.3; it 0.62, ja 0.20`"""
    score = ", ".join(scale.format(value) for value in trial.objective) if trial.objective else trial.state
    weights = ", ".join(f"{shorten(name, 16)} {format_weight(value)}" for name, value in trial.weights.items())
    settings = "".join(f"; {quote_setting(name)} {format_setting(value)}" for name, value in trial.settings.items())
    floor = "; below a floor" if trial.objective and not trial.feasible else ""
    source = f"; from {trial.origin}" if trial.is_imported else ""
    return f"trial {trial.number}: {score}; {weights}{settings}{floor}{source}"


def select_measured(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials that have a score."""
    return [trial for trial in trials if trial.state == "complete" and trial.objective]


def find_nondominated(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Numbers of the measured, feasible trials that no other one matches everywhere and beats somewhere."""
    feasible = [trial for trial in select_measured(trials) if trial.feasible]
    points = [(trial.number, trial.objective) for trial in feasible if trial.objective]

    def is_beaten(point: tuple[float, ...]) -> bool:
        return any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for _, other in points)

    return tuple(number for number, point in points if not is_beaten(point))
