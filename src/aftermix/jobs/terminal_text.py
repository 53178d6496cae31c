"""Results of jobs as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aftermix.errors import printable
from aftermix.jobs.doctor import Diagnosis
from aftermix.jobs.plan import Plan
from aftermix.jobs.plan_counts import training_text


def diagnosis_lines(found: Diagnosis) -> Iterator[str]:
    """Facts, then notes, then problems, each numbered problem with its remedy."""
    yield from (f"  {printable(fact)}" for fact in found.facts)
    if found.notes:
        yield "Notes (they stop nothing):"
        yield from (f"  {note}" for note in found.notes)

    if not found.problems:
        yield "No problems."
        return
    yield f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}:"
    yield from (f"  {number}. {problem}" for number, problem in enumerate(found.problems, 1))


def plan_lines(plan: Plan) -> Iterator[str]:
    """Disk, memory, evaluations, tokens and time."""
    yield f"Parameters      {plan.parameters:,}"
    written = f"{plan.experts} experts" if plan.experts else "the merged model"
    yield f"Disk            {_bytes(plan.disk_bytes)} for {written}"

    fits = "fits" if plan.memory_bytes < plan.memory_free_bytes else "does NOT fit"
    free = _bytes(plan.memory_free_bytes)
    yield f"Peak memory     {_bytes(plan.memory_bytes)} besides the libraries ({fits} into the {free} that are free)"

    if plan.space:
        yield f"Space           {plan.space}"
    for task, sizes in plan.items.items():
        yield f"Items           {task}: " + ", ".join(f"{split} {count}" for split, count in sizes.items())

    seconds = plan.seconds
    for split, tokens in plan.tokens.items():
        time = f", about {_time(seconds[split])}" if seconds else ""
        yield f"{split:<15} {plan.measurements[split]} evaluations, {tokens:,} tokens{time}"

    if plan.tokens_per_s:
        yield f"Speed           {plan.tokens_per_s:,.0f} tokens/s measured now; one merge {plan.combine_s:.3f} s"
        yield f"Total           about {_time(sum(seconds.values()))}"
    if plan.training:
        yield f"Training        {', '.join(training_text(plan.training))}"
    if plan.verification_tokens:
        yield f"--verify N      N x {plan.verification_tokens:,} tokens of training"


def score_lines(summary: dict[str, Any]) -> Iterator[str]:
    """One line a task, then the objective, in points with 95 % intervals."""
    for task, entry in summary["tasks"].items():
        low, high = entry["interval"]
        yield f"{task}: {100 * entry['score']:.1f} [{100 * low:.1f}, {100 * high:.1f}] on {entry['items']} items"
    for value, (low, high) in zip(summary["objective"], summary["interval"], strict=True):
        yield f"objective: {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


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
