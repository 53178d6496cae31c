"""The device that the user names, tried before anything is loaded on it; arithmetic as the file has it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch

from aftermix.errors import AftermixError, printable

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
NEUTRAL = ("", "0", "no", "none", "false", "default", "strict")
"""Values that ask for nothing, as a launcher sets them."""


def set_environment_aside(log: Callable[[str], object] | None = None) -> None:
    """Take the variables that change arithmetic out of this process's environment: the file decides the numbers.

    Called before a model is loaded for training or evaluation. `log` (default: standard error) is told of each that
    asked for something. What concerns placement alone (FSDP, ranks, visible devices, threads) stays.
    """
    set_here = [name for name in os.environ if name in NOT_HEEDED or name.startswith(NOT_HEEDED_PREFIXES)]
    for name in sorted(set_here):
        value = os.environ.pop(name)
        if name == "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE":
            torch.set_float32_matmul_precision("highest")  # it was read when torch was loaded

        is_one_step = name == "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" and value == "1"
        if value.lower() not in NEUTRAL and not is_one_step:
            line = printable(f"{name}={value} in the environment is not heeded: the file decides the numbers")
            sys.stderr.write(f"{line}\n") if log is None else log(line)


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
