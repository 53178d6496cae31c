"""The device that the user names, tried before anything is loaded on it; its threads; arithmetic as the file has it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from aftermix.errors import AftermixError, printable

LOGGER = logging.getLogger("aftermix.devices")
LOGGER.addHandler(logging.NullHandler())
NOT_HEEDED = (
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_DOWNCAST_BF16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "ACCELERATE_GRADIENT_CLIPPING",
    "ACCELERATE_TORCH_DEVICE",
    "ACCELERATE_USE_CPU",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
)
"""Environment variables that change arithmetic; a launcher sets some of them from the user's default file."""
NOT_HEEDED_PREFIXES = ("ACCELERATE_DYNAMO_", "ACCELERATE_FP8_")
SETTLING_S = 0.2
"""A batch that takes less is run again until so many seconds have passed: a few milliseconds of another program, or of
threads that wake up, must not decide."""
NEUTRAL = ("", "0", "no", "none", "false", "default", "strict")
"""Values that ask for nothing, as a launcher sets them."""


def set_environment_aside(log: Callable[[str], object] | None = None) -> None:
    """Take the variables that change arithmetic out of this process's environment: the file decides the numbers.

    Called before a model is loaded for training or evaluation. `log` (default: the logger `aftermix`) is told of each
    that asked for something. What concerns placement alone (FSDP, ranks, visible devices, threads) stays.
    """
    set_here = [name for name in os.environ if name in NOT_HEEDED or name.startswith(NOT_HEEDED_PREFIXES)]
    for name in sorted(set_here):
        value = os.environ.pop(name)
        if name == "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE":
            torch.set_float32_matmul_precision("highest")  # it was read when torch was loaded

        is_one_step = name == "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" and value == "1"
        if value.lower() not in NEUTRAL and not is_one_step:
            line = printable(f"{name}={value} in the environment is not heeded: the file decides the numbers")
            (LOGGER.warning if log is None else log)(line)


def open_device(name: str, *, where: str, error: type[AftermixError]) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises `error` about `where` for one that cannot be used.

    No environment variable decides what is computed there: see :func:`set_environment_aside`.
    """
    set_environment_aside()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as reason:  # torch asserts when it was built without CUDA
        found = f"'{name}' cannot be used ({' '.join(str(reason).split())[:200]})"
        raise error(where, found, "Use `auto` or `cpu`.") from reason
    return device


def choose_threads(batches: Sequence[Callable[[], object]]) -> int:
    """The number of CPU threads, one or all, under which most of `batches` take less time; torch is left at it.

    All is what torch has when this is called. Each batch is run under both numbers, in changing order, after a first
    run of one that is not timed; what is short is run for :data:`SETTLING_S` seconds each time. Several threads wait
    for each other at every small operation: beside other processes, or for a small model, one is faster, up to 25 times
    on two busy cores. With one core, or no batch, nothing is run.
    """
    every = torch.get_num_threads()
    if every == 1 or not batches:
        return every

    batches[0]()
    faster = 0
    for number, run_batch in enumerate(batches):
        order = (1, every) if number % 2 == 0 else (every, 1)
        seconds = {threads: _time_batch(run_batch, threads) for threads in order}
        faster += seconds[every] < seconds[1]

    chosen = every if 2 * faster > len(batches) else 1
    torch.set_num_threads(chosen)
    return chosen


def _time_batch(run_batch: Callable[[], object], threads: int) -> float:
    """Seconds of one run under `threads`, the mean of those that fit in the time."""
    torch.set_num_threads(threads)
    started, runs, passed = perf_counter(), 0, 0.0
    while passed < SETTLING_S:
        run_batch()
        runs += 1
        passed = perf_counter() - started
    return passed / runs
