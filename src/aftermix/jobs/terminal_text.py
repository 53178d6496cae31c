"""Results of jobs as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from aftermix.errors import printable
from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
from aftermix.jobs.plan import JobEstimate
from aftermix.jobs.plan_counts import describe_training
from aftermix.report.number_format import ScoreScale, choose_scale
from aftermix.runs.json_record import Interval
from aftermix.runs.records import ScoresRecord

BUSY_CORES = 0.3
"""Cores' worth of other processes' work above which measured times are said to be of a busy machine."""


def describe_diagnosis(diagnosis: ConfigDiagnosis) -> Iterator[str]:
    """Facts, then notes, then problems, each numbered problem with its remedy."""
    yield from (f"  {printable(fact)}" for fact in diagnosis.facts)
    if diagnosis.notes:
        yield "Notes (they stop nothing):"
        yield from (f"  {note}" for note in diagnosis.notes)

    if not diagnosis.problems:
        yield "No problems."
        return
    yield f"{len(diagnosis.problems)} problem{'s' if len(diagnosis.problems) > 1 else ''}:"
    yield from (f"  {number}. {problem}" for number, problem in enumerate(diagnosis.problems, 1))


def describe_estimate(needs: JobEstimate) -> Iterator[str]:
    """Disk, memory, evaluations, tokens and time."""
    yield f"Parameters      {needs.parameters:,}"
    written = f"{needs.experts} experts" if needs.experts else "the merged model"
    yield f"Disk            {_bytes(needs.disk_bytes)} for {written}"

    fits = "fits" if needs.memory_bytes < needs.memory_free_bytes else "does NOT fit"
    free = _bytes(needs.memory_free_bytes)
    yield f"Peak memory     {_bytes(needs.memory_bytes)} besides the libraries ({fits} into the {free} that are free)"

    if needs.space:
        yield f"Space           {needs.space}"
    for task, sizes in needs.items.items():
        yield f"Items           {task}: " + ", ".join(f"{split} {count}" for split, count in sizes.items())

    for task, cut in needs.cut_prompts.items():
        counts = ", ".join(f"{split} {count}" for split, count in cut.items())
        yield f"Cut prompts     {task}: {counts} lose their beginning to the model's length"

    seconds = needs.seconds
    for split, tokens in needs.tokens.items():
        time = f", about {_time(seconds[split])}" if seconds else ""
        yield f"{split:<15} {needs.measurements[split]} evaluations, {tokens:,} tokens{time}"

    for name, text in (("Budget", needs.runs), ("Requests", needs.sharing)):
        if text:
            yield f"{name:<15} {text}"
    if needs.tokens_per_s:
        yield from _describe_speed(needs, needs.tokens_per_s)
        yield f"Total           about {_time(sum(seconds.values()))}"
    if needs.training:
        yield f"Training        {', '.join(describe_training(needs.training))}"
    if needs.verification_tokens:
        yield f"--verify N      N x {needs.verification_tokens:,} tokens of training"
    yield from (f"Note            {remark}" for remark in needs.remarks)


def _describe_speed(needs: JobEstimate, tokens_per_s: float) -> Iterator[str]:
    threads = f" with {needs.threads} thread{'' if needs.threads == 1 else 's'}" if needs.threads else ""
    speed = f"{tokens_per_s:,.0f} tokens/s measured now{threads}"
    yield f"Speed           {speed}; one merge {needs.combine_s:.3f} s"
    if needs.busy_cores > BUSY_CORES:
        yield f"Busy            other work keeps {needs.busy_cores:.1f} cores: alone, the job is faster than this"


def describe_scores(summary: ScoresRecord) -> Iterator[str]:
    """One line a task, then the objective, with 95 % intervals: shares in points, other scores in their own unit."""
    for task, entry in summary.tasks.items():
        cut = f"; {entry.cut_prompts} prompts cut to the model's length" if entry.cut_prompts else ""
        score = _format_score(entry.score, entry.interval, choose_scale([entry.score]))
        yield f"{task}: {score} on {entry.items} items{cut}"

    scale = choose_scale([*summary.objective, *(entry.score for entry in summary.tasks.values())])
    for value, interval in zip(summary.objective, summary.interval, strict=True):
        yield f"objective: {_format_score(value, interval, scale)}"


def _format_score(score: float, interval: Interval | None, scale: ScoreScale) -> str:
    return scale.format_plain(score, interval) if interval else f"{scale.format_plain(score)} [unknown]"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
