"""The first to fail: the memory with least room, and the phase that takes the hours, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aftermix.jobs.scale.holdings import CAPACITY_WORDS, Holding, MemoryTotal
from aftermix.jobs.scale.layout import GB, EngineLayout
from aftermix.jobs.scale.setup import EngineSetup
from aftermix.jobs.scale.times import PhaseTime, PointTime, time_point
from aftermix.jobs.scale.work import Workload
from aftermix.merging.prepared import MEMORY_SHARE


def explain_limits(
    holdings: Sequence[Holding], totals: Sequence[MemoryTotal], times: Sequence[PhaseTime], setup: EngineSetup | None
) -> Iterator[str]:
    """Sentences: what does not fit, or fits with the least room; what waits; what takes the hours."""
    tight = sorted(totals, key=lambda total: -total.share)
    missing = [total for total in tight if total.share > 1]
    for total in missing:
        yield _describe_total(total, holdings, "does NOT fit")
    if not missing and tight:
        yield _describe_total(tight[0], holdings, f"fits with the least room, {tight[0].share:.0%} of it taken")

    if setup is not None:
        yield from _explain_exchange(setup, time_point(setup))
        yield from _explain_idle_engines(setup.work, setup.layout)
    held = [time for time in times if time.gpu_hours]
    if held:
        longest = max(held, key=lambda time: time.gpu_hours)
        yield f"Most hours go to the phase {longest.phase}: {longest.gpu_hours:,.1f} GPU hours"


def _describe_total(total: MemoryTotal, holdings: Sequence[Holding], verdict: str) -> str:
    own = [each for each in holdings if (each.phase, each.place) == (total.phase, total.place) and not each.elastic]
    largest = max(own, key=lambda each: each.nbytes)
    return (
        f"Memory of {CAPACITY_WORDS[total.place]} in the phase {total.phase} {verdict}: {total.nbytes / GB:,.1f} of "
        f"{total.capacity_bytes / GB:,.0f} GB, most of it {largest.what} ({largest.nbytes / GB:,.1f} GB)"
    ).replace("Memory of disk", "Disk")


def _explain_exchange(setup: EngineSetup, point: PointTime) -> Iterator[str]:
    """The vectors that memory does not hold, and the share of a point that is no evaluation."""
    hardware, layout, placement = setup.hardware, setup.layout, setup.placement

    if placement.place == "disk":
        needed = placement.copies * placement.prepared_bytes
        room = MEMORY_SHARE * hardware.host.memory_gb
        yield (
            f"Prepared vectors ({needed / GB:,.0f} GB on each host) exceed half of its memory ({room:,.0f} GB): they "
            f"lie in a scratch file, and an exchange of weights waits {point.read_s:,.0f} s for the disk"
        )

    if placement.copies == 1 and layout.engines_per_host > 1 and placement.place == "host":
        yield (
            f"One copy of the prepared vectors serves {layout.engines_per_host} engines of a host, as "
            "worker processes share it; actors of Ray hold one each, planned with `engine.vectors_per: engine`"
        )

    yield f"The exchange of weights is {point.swap_s / point.seconds:.1%} of a point"

    if hardware.engine.swap == "whole" and layout.gpus > 1 and placement.read_bytes:
        yield (
            f"Each of an engine's {layout.gpus} GPUs takes in every tensor in full; `engine.swap: sliced` would be "
            f"{placement.read_bytes / layout.gpus / GB:,.1f} GB a GPU instead of {placement.read_bytes / GB:,.1f}"
        )


def _explain_idle_engines(work: Workload, layout: EngineLayout) -> Iterator[str]:
    idle = layout.engines - work.batch
    if idle > 0:
        yield (
            f"`search.batch: {work.batch}` leaves {idle} of {layout.engines} engines without work during the search: "
            f"set it to {layout.engines}"
        )
