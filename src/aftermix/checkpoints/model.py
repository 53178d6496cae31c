"""A model as named tensors, whatever it is stored as: every reader of checkpoints gives one, every merge takes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from aftermix.checkpoints.names import is_computed

Span = tuple[int, int]
"""Run of elements of a flattened tensor, half-open: `[start, stop)`."""
START_BYTES = 1 << 12


@dataclass(frozen=True)
class TensorInfo:
    """Entry of a header: name, shape and stored type of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return self.elements * self.dtype.itemsize

    @property
    def mergeable(self) -> bool:
        """True for learned numbers; counters, flags and what is computed pass through from the base."""
        return self.dtype.is_floating_point and not self.computed

    @property
    def computed(self) -> bool:
        """True if a model computes it for itself, so that one file may store it and another leave it out."""
        return is_computed(self.name, self.shape)


class Model(Protocol):
    """Named tensors and a configuration, read a run of elements at a time."""

    @property
    def folder(self) -> Path:
        """Folder of the configuration, the tokenizer and the other files beside the weights."""

    @property
    def label(self) -> str:
        """Name that the user gave it: the path or hub name in the YAML file."""

    @property
    def config(self) -> dict[str, Any]:
        """Content of `config.json`, as a model of these tensors needs it."""

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, in order of name, in the type in which a result would store it."""

    @property
    def alias(self) -> dict[str, str]:
        """Output head by the embedding it is tied to; empty for an untied model."""

    def has(self, name: str) -> bool:
        """Tell whether the model has this tensor, stored or through a tie."""

    def info(self, name: str) -> TensorInfo:
        """Entry of `name`, through a tie if it is tied."""

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the flattened tensor, possibly memory-mapped: treat them as read-only.

        A tensor that is stored plainly comes in its stored type; one that has to be computed may come in float32.
        """

    def files(self) -> list[Path]:
        """The files that hold weights, in order of name."""


@runtime_checkable
class StoredDifference(Protocol):
    """A model that is known by its difference from the base (an adapter, a vector file), which needs no subtraction."""

    def difference(self, name: str, span: Span) -> torch.Tensor | None:
        """Elements `span` of expert - base in float32; None for a tensor that does not differ."""


def read_tensor(model: Model, name: str) -> torch.Tensor:
    """The whole tensor in its shape; treat it as read-only."""
    info = model.info(name)
    return model.read_block(name, (0, info.elements)).reshape(info.shape)


def hold_equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Tell whether two tensors are equal, NaN to the same NaN; of two real types, in the narrower.

    A loader gives all weights one type, so what agrees there is one tensor.
    """
    if ours.shape != theirs.shape:
        return False
    if ours.dtype != theirs.dtype:
        if not (ours.is_floating_point() and theirs.is_floating_point()):
            return torch.equal(ours.to(torch.float64), theirs.to(torch.float64))
        narrower = min((ours.dtype, theirs.dtype), key=lambda dtype: dtype.itemsize)
        ours, theirs = ours.to(narrower), theirs.to(narrower)

    # Most that differ do so from the start on.
    mine, other = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (ours, theirs))
    return torch.equal(mine[:START_BYTES], other[:START_BYTES]) and torch.equal(mine, other)


@runtime_checkable
class StoredOtherwise(Protocol):
    """A model that says how it is stored."""

    def describe_storage(self) -> list[str]:
        """Sentences without their subject: `is a LoRA adapter: rank 16, 84 tensors moved`."""


def describe_storage(model: Model) -> tuple[str, ...]:
    """Sentences on the form in which `model` is stored; none for plain safetensors."""
    return tuple(model.describe_storage()) if isinstance(model, StoredOtherwise) else ()
