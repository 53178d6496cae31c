"""`EngineLayout`: engines on GPUs, and what the memory of one GPU holds while it answers requests."""

from __future__ import annotations

from dataclasses import dataclass

from aftermix.config import HardwareConfig
from aftermix.errors import ConfigError
from aftermix.jobs.scale.shape import ModelShape
from aftermix.jobs.scale.work import Workload

GB = 10**9
LEAST_SEQUENCES = 16
"""Requests in work at once that `engine.gpus: auto` makes room for."""
WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4}
LOGIT_BYTES = 4
"""Logits are normalised in float32."""


@dataclass(frozen=True)
class EngineLayout:
    """Engines of a job. Bytes are those of one GPU."""

    gpus: int
    """Of one engine."""
    engines: int
    engines_per_host: int
    width: int
    """Bytes of a weight in the engine."""
    usable_bytes: int
    weight_bytes: int
    activation_bytes: int
    sequence_bytes: int
    """Cache of one request at its longest."""
    sequences: int
    """Requests in work at once: as many as the cache holds, the engine takes, and an evaluation has."""

    @property
    def free_bytes(self) -> int:
        """Room for the cache."""
        return max(0, self.usable_bytes - self.weight_bytes - self.activation_bytes)

    @property
    def cache_bytes(self) -> int:
        """Cache of all requests in work."""
        return self.sequences * self.sequence_bytes


def lay_out_engines(shape: ModelShape, hardware: HardwareConfig, work: Workload) -> EngineLayout:
    """Choose the GPUs of an engine, or check those that the file names.

    Raises :class:`ConfigError` for GPUs that are not there, that do not fill a host, or that do not divide the heads,
    and for weights or a request that do not fit.
    """
    _refuse_odd_hosts(hardware)
    if hardware.engine.gpus != "auto":
        _refuse_unfit_count(shape, hardware, hardware.engine.gpus)
        layout = _measure_layout(shape, hardware, work, hardware.engine.gpus)
        _refuse_too_small(shape, hardware, layout)
        return layout

    counts = [count for count in range(1, hardware.gpus_per_host + 1) if not _find_fault(shape, hardware, count)]
    layouts = [_measure_layout(shape, hardware, work, count) for count in counts]
    roomy = (each for each in layouts if each.free_bytes >= LEAST_SEQUENCES * each.sequence_bytes)
    chosen = next(roomy, layouts[-1])
    _refuse_too_small(shape, hardware, chosen)
    return chosen


def _refuse_odd_hosts(hardware: HardwareConfig) -> None:
    if hardware.gpus % hardware.gpus_per_host:
        found = f"{hardware.gpus} GPUs do not fill hosts of {hardware.host.gpus} (`host.gpus`)"
        raise ConfigError("gpus", found, f"Take a multiple of {hardware.host.gpus}, or set `host.gpus`.")


def _find_fault(shape: ModelShape, hardware: HardwareConfig, count: int) -> str:
    """The fault of an engine on `count` GPUs, in words; empty where there is none."""
    if count > hardware.gpus_per_host:
        return f"there are {hardware.gpus_per_host} on a host, and an engine does not span hosts"
    if hardware.gpus_per_host % count:
        return f"they do not divide the {hardware.gpus_per_host} GPUs of a host"
    if shape.heads % count:
        return f"they do not divide the model's {shape.heads} attention heads"
    if shape.kv_heads % count and count % shape.kv_heads:
        return f"they neither divide the model's {shape.kv_heads} key-value heads nor are a multiple of them"
    return ""


def _refuse_unfit_count(shape: ModelShape, hardware: HardwareConfig, count: int) -> None:
    fault = _find_fault(shape, hardware, count)
    if fault:
        fit = [str(each) for each in range(1, hardware.gpus_per_host + 1) if not _find_fault(shape, hardware, each)]
        found = f"an engine of {shape.label} on {count} GPUs: {fault}"
        raise ConfigError("engine.gpus", found, f"Take one of {', '.join(fit)}, or `auto`.")


def _measure_layout(shape: ModelShape, hardware: HardwareConfig, work: Workload, count: int) -> EngineLayout:
    engine, width = hardware.engine, WIDTHS[hardware.engine.dtype]
    usable = int(hardware.gpu.memory_gb * GB * engine.memory_share)
    weights = shape.weight_bytes(gpus=count, width=width)
    activations = count_activation_bytes(shape, positions=engine.batch_tokens, gpus=count, width=width)
    sequence = shape.cache_bytes(work.request_tokens, gpus=count, width=width)

    room = max(0, usable - weights - activations)
    most = min([engine.sequences, *(work.count_requests(split) for split in ("search",) if work.items)])
    return EngineLayout(
        gpus=count,
        engines=hardware.gpus // count,
        engines_per_host=hardware.gpus_per_host // count,
        width=width,
        usable_bytes=usable,
        weight_bytes=weights,
        activation_bytes=activations,
        sequence_bytes=sequence,
        sequences=min(most, room // sequence) if sequence else most,
    )


def count_activation_bytes(shape: ModelShape, *, positions: int, gpus: int, width: int) -> int:
    """Bytes of one pass over `positions`: one layer's inputs and outputs, and the logits of all of them.

    An engine frees a layer's numbers before the next one; logits are there at once where prompts are scored.
    """
    layer = width * shape.widths * positions // gpus
    return layer + LOGIT_BYTES * positions * -(-shape.vocabulary // gpus)


def _refuse_too_small(shape: ModelShape, hardware: HardwareConfig, layout: EngineLayout) -> None:
    """Raise :class:`ConfigError` where an engine holds no request, with the GPU memory that would do."""
    if layout.sequences > 0:
        return
    needed = layout.weight_bytes + layout.activation_bytes + layout.sequence_bytes
    least = needed / GB / hardware.engine.memory_share
    found = (
        f"the weights of {shape.label} take {layout.weight_bytes / GB:,.1f} GB on each of {layout.gpus} GPUs of an "
        f"engine, activations and one request {(needed - layout.weight_bytes) / GB:,.1f} GB more; "
        f"{layout.usable_bytes / GB:,.1f} GB are usable (`gpu.memory_gb` x `engine.memory_share`)"
    )
    more = f"GPUs of {least:,.0f} GB, more GPUs an engine (`engine.gpus`, `host.gpus`), or fewer `engine.batch_tokens`"
    raise ConfigError("gpus", found, f"Take {more}.")
