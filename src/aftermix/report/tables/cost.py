"""Time that a run took, by phases of its trials and by stages of the whole, as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from aftermix.report.number_format import format_duration
from aftermix.runs.reader import RunContents

PHASES = ("combine", "evaluate", "overhead")


@dataclass(frozen=True)
class BarSegment:
    """One part of a stacked bar."""

    name: str
    total: str
    percent: float
    median: str = ""


@dataclass(frozen=True)
class RunCost:
    """Time spent: on phases of the trials of this run, and on stages of the whole job."""

    trials: int
    phases: tuple[BarSegment, ...]
    phases_total: str
    median_total: str
    stages: tuple[BarSegment, ...] = field(default=())
    stages_total: str = ""


def summarise_cost(run: RunContents) -> RunCost | None:
    """Seconds by phase over all trials measured here (imported ones cost nothing); None when none were recorded."""
    spent = [trial.seconds for trial in run.trials if trial.seconds and not trial.is_imported]
    phases = [*PHASES, *sorted({phase for seconds in spent for phase in seconds} - set(PHASES))]
    totals = {phase: sum(seconds.get(phase, 0.0) for seconds in spent) for phase in phases}
    medians = {phase: median(seconds.get(phase, 0.0) for seconds in spent) for phase in phases} if spent else {}

    stages = _list_stages(run, sum(totals.values()))
    if not spent and not stages:
        return None

    return RunCost(
        trials=len(spent),
        phases=_build_segments(totals, medians) if spent else (),
        phases_total=format_duration(sum(totals.values())),
        median_total=format_duration(median(sum(seconds.values()) for seconds in spent)) if spent else "",
        stages=_build_segments(stages, {}) if stages else (),
        stages_total=format_duration(sum(stages.values())) if stages else "",
    )


def _list_stages(run: RunContents, search_s: float) -> dict[str, float]:
    if run.best is None:
        return {}

    seconds = run.best.seconds
    searching_s = sum(seconds.search.values()) or search_s
    return {"prepare": seconds.prepare, "search": searching_s, "select": seconds.select, "test": seconds.test}


def _build_segments(totals: Mapping[str, float], medians: Mapping[str, float]) -> tuple[BarSegment, ...]:
    whole = sum(totals.values()) or 1.0
    return tuple(
        BarSegment(
            name=name,
            total=format_duration(seconds),
            percent=round(100 * seconds / whole, 2),
            median=format_duration(medians[name]) if name in medians else "",
        )
        for name, seconds in totals.items()
    )
