"""The second order of a mixture before it is searched: measured at its first mixture, or what that would take."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import psutil

from aftermix.config import Config
from aftermix.jobs.analysis.second_order import count_needed_bytes, measure_second_order, open_second_order_texts
from aftermix.report.sections.mixture import compose_second_order

GIGABYTE = 1e9
PASSES = "a gradient and two Hessian-vector products over the text of each expert"


def describe_second_order(config: Config, ratios: Mapping[str, float]) -> str:
    """A line: how far a training and the merge part at `ratios`, which is measured now, in float32, where the file asks
    for it and memory has room; else what it takes.

    Raises :class:`AftermixError` as :func:`~aftermix.jobs.analysis.second_order.open_second_order_texts`.
    """
    assert config.mixture is not None  # noqa: S101 - the caller looked; for the type checker
    missing = [name for name in ratios if config.vectors[name].calibration is None]
    if not config.mixture.second_order or missing:
        without = f" (none of {', '.join(missing)})" if missing else ""
        needs = f"`mixture.second_order` measures it on `calibration` text of every expert{without}"
        return f"second order: not known; {needs}: {PASSES}"

    texts = open_second_order_texts(config)
    needed, free = count_needed_bytes(texts), psutil.virtual_memory().available
    if needed > free:
        told = f"its gradients take about {needed / GIGABYTE:.1f} GB of memory, and {free / GIGABYTE:.1f} GB are free"
        return f"second order: not measured here; {told}"

    started = perf_counter()
    record = measure_second_order(texts, ratios)
    shares = ", ".join(f"{name} {share:.3g}" for name, share in ratios.items())
    cost = f"{sum(record.tokens.values()):,} tokens of text, {perf_counter() - started:.1f} s"
    return f"second order at {shares} ({cost}): {compose_second_order(record)}"
