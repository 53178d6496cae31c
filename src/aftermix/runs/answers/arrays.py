"""Arrays in a safetensors file of a run: the same arrays are the same bytes, and what is read is what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aftermix.errors import AftermixError
from aftermix.files import write_atomically

RESTORE = "Restore the file from a backup, or start a new run."


@dataclass(frozen=True)
class ExpectedArray:
    """Type and length of an array of one dimension."""

    dtype: DTypeLike
    length: int

    def __str__(self) -> str:
        """The array in words, e.g. `400 numbers of float32`."""
        return f"{self.length} numbers of {np.dtype(self.dtype)}"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the file `path`, atomically."""
    write_atomically(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_arrays(path: Path, expected: Mapping[str, ExpectedArray], *, noun: str) -> dict[str, NDArray[Any]]:
    """The arrays in the file `path`, which are those `expected` and no others.

    Raises :class:`AftermixError` naming `noun` for a file that is missing or damaged, and the first array that is
    missing, unknown, or of another type or length.
    """
    try:
        found = load(path.read_bytes())
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise AftermixError(str(path), f"expected {noun}, found {reason}", RESTORE) from error

    for name, shape in expected.items():
        if name not in found:
            raise AftermixError(f"{path}: {name}", f"expected {shape}, found no such array", RESTORE)
        array = found[name]
        if array.shape != (shape.length,) or array.dtype != np.dtype(shape.dtype):
            sizes = " x ".join(map(str, array.shape)) or "1"
            raise AftermixError(f"{path}: {name}", f"expected {shape}, found {sizes} of {array.dtype}", RESTORE)
    unknown = sorted(found.keys() - expected.keys())
    if unknown:
        raise AftermixError(f"{path}: {unknown[0]}", "expected no such array: no task of this run has it", RESTORE)
    return {name: found[name] for name in expected}
