"""The device that the user names, tried before anything is loaded onto it."""

from __future__ import annotations

import torch

from aftermix.errors import AftermixError


def open_device(name: str, *, where: str, error: type[AftermixError]) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises `error` about `where` for one that cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as reason:  # torch asserts when it was built without CUDA
        found = f"'{name}' cannot be used ({' '.join(str(reason).split())[:200]})"
        raise error(where, found, "Use `auto` or `cpu`.") from reason
    return device
