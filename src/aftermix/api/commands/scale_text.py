"""Lines of `aftermix plan --hardware`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aftermix.api.commands.texts import format_bytes, format_time
from aftermix.errors import printable

if TYPE_CHECKING:
    from aftermix.jobs.scale.command import ScalePlan

PLACES = {"gpu": "each GPU", "host": "each host", "disk": "disk"}
ASSUMPTIONS_A_LINE = 4


def describe_scale_plan(plan: ScalePlan) -> Iterator[str]:
    """Model, engines, bytes by phase and place, a point, times, the rival's hours, limits and assumptions."""
    yield from _describe_model(plan)
    yield from _describe_engines(plan)
    yield from _describe_bytes(plan)
    yield from _describe_point(plan)

    for time in plan.times:
        hours = f", {time.gpu_hours:,.1f} GPU hours" if time.gpus else ""
        yield f"{f'Time {time.phase}':<15} {format_time(time.seconds)}{hours}: {time.words}"

    for rival in plan.rivals:
        yield (
            f"Ratios of {rival.datasets:<5} {rival.search:,.1f} GPU hours of search, {rival.mixing:,.1f} of one "
            f"training on the mixture: {rival.ratio:,.1f}x"
        )
    if plan.rivals:
        yield from _describe_paper()

    yield from (f"First to fail   {limit}" for limit in plan.limits)
    for start in range(0, len(plan.assumptions), ASSUMPTIONS_A_LINE):
        yield f"Assumed         {', '.join(plan.assumptions[start : start + ASSUMPTIONS_A_LINE])}"


def _describe_paper() -> Iterator[str]:
    """The published hours, for a reader to hold his own against."""
    from aftermix.jobs.scale.rivals import PAPER_MIXING_GPU_HOURS, PAPER_SEARCH_GPU_HOURS

    ratio = PAPER_MIXING_GPU_HOURS / PAPER_SEARCH_GPU_HOURS
    yield (
        f"OptiMer's own   {PAPER_SEARCH_GPU_HOURS:,.1f} GPU hours of search, {PAPER_MIXING_GPU_HOURS:,.1f} of one "
        f"training on a mixture (27 B, eight H200): {ratio:.1f}x, up to 35x with more data sets"
    )


def _describe_model(plan: ScalePlan) -> Iterator[str]:
    shape = plan.shape
    active = f", {shape.active:,} of them active ({shape.top} of {shape.experts} experts)" if shape.experts else ""
    yield f"Model           {printable(shape.label)}, {shape.architecture}"
    yield f"Parameters      {shape.parameters:,}{active}; {shape.moved:,} move in a merge"
    yield f"Machines        {plan.gpus} GPUs on {plan.hosts} host{'' if plan.hosts == 1 else 's'}"


def _describe_engines(plan: ScalePlan) -> Iterator[str]:
    layout, speeds = plan.layout, plan.speeds
    if layout is not None:
        share = f"on {layout.gpus} GPUs each" if layout.gpus > 1 else "on a GPU each"
        yield f"Engines         {layout.engines}, {share}, {layout.sequences} requests at once"
        figures = {"scoring": speeds.score, "generating": speeds.generate}
        told = ", ".join(f"{name} {figure:,.0f}" for name, figure in figures.items())
        source = f"stated: {', '.join(speeds.stated)}" if speeds.stated else "none of them stated"
        yield f"Tokens/s a GPU  {told}, training {speeds.train:,.0f} ({source})"


def _describe_bytes(plan: ScalePlan) -> Iterator[str]:
    """One line a phase and place: what lies there, then the sum and the capacity."""
    totals = {(total.phase, total.place): total for total in plan.totals}
    places = dict.fromkeys((holding.phase, holding.place) for holding in plan.holdings)
    for phase, place in places:
        own = [each for each in plan.holdings if (each.phase, each.place) == (phase, place)]
        parts = ", ".join(
            f"{each.what} {format_bytes(each.nbytes)}{' (gives way)' if each.elastic else ''}" for each in own
        )
        total = totals.get((phase, place))
        verdict = ""
        if total is not None:
            fits = "fits into" if total.share <= 1 else "does NOT fit into"
            verdict = f": {format_bytes(total.nbytes)} {fits} {format_bytes(total.capacity_bytes)}"
        yield f"{f'Bytes {phase}':<15} {PLACES[place]}{verdict}: {parts}"


def _describe_point(plan: ScalePlan) -> Iterator[str]:
    point, placement = plan.point, plan.placement
    if point is None or placement is None:
        return
    read = format_bytes(placement.read_bytes) if placement.read_bytes else "nothing (resident)"
    disk = f", {format_bytes(placement.disk_bytes)} from disk" if placement.disk_bytes else ""
    yield f"Read per point  {read} into each GPU{disk}"
    yield (
        f"A point         {format_time(point.seconds)}: exchange {point.swap_s:,.1f} s, "
        f"scoring {point.score_s:,.1f} s, generating {point.generate_s:,.1f} s"
    )
