"""A model presented under other names or in another layout: the parts that every such view has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.model import Bounds, Model, StoredDifference, TensorInfo, storage_facts

Reader = Callable[[str, Bounds], torch.Tensor]
"""Elements of a named, flattened tensor."""


@dataclass(frozen=True)
class View(ABC):
    """`inner` as a model with the names and shapes of `frame`; it is read as lazily as `inner` itself.

    What `inner` lacks has the values of `frame`, so its difference is exactly 0.
    """

    inner: Model
    frame: Model
    tensors: dict[str, TensorInfo]
    alias: dict[str, str]
    told: tuple[str, ...]
    """Sentences without a subject: what was matched, passed through and ignored."""

    @property
    def folder(self) -> Path:
        """Folder of the model that is viewed."""
        return self.inner.folder

    @property
    def label(self) -> str:
        """Name that the user gave the model that is viewed."""
        return self.inner.label

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the model that is viewed."""
        return self.inner.config

    def files(self) -> list[Path]:
        """Weight files of the model that is viewed."""
        return self.inner.files()

    def has(self, name: str) -> bool:
        """Tell whether the view has this tensor, stored or through a tie."""
        return self.alias.get(name, name) in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Entry of `name`, through a tie if it is tied."""
        return self.tensors[self.alias.get(name, name)]

    def block(self, name: str, bounds: Bounds) -> torch.Tensor:
        """Elements `span` of the flattened tensor; read-only."""
        if bounds[0] >= bounds[1]:
            return torch.empty(0, dtype=self.info(name).dtype)
        return self.gather(self.alias.get(name, name), bounds, read=self.inner.block, absent=self.frame.block)

    def difference(self, name: str, bounds: Bounds) -> torch.Tensor | None:
        """Elements `span` of this model - `frame` in float32; None where nothing of it is `inner`'s."""
        name = self.alias.get(name, name)
        if not self.differs(name) or bounds[0] >= bounds[1]:
            return None

        if stores_difference(self.inner):
            return self.gather(name, bounds, read=differences(self.inner), absent=_zeros)
        return self.block(name, bounds).to(torch.float32) - self.frame.block(name, bounds).to(torch.float32)

    def differs(self, name: str) -> bool:  # noqa: ARG002 - most views take every tensor from `inner`
        """Tell whether any element of `name` is `inner`'s own."""
        return True

    @abstractmethod
    def gather(self, name: str, bounds: Bounds, *, read: Reader, absent: Reader) -> torch.Tensor:
        """Elements `span` of tensor `name`, put together from what `read` gives under the names of `inner`.

        `absent` gives, under the names of `frame`, what `inner` lacks.
        """


def stores_difference(model: Model) -> bool:
    """Tell whether `model` is known by its difference from the base, itself or beneath its views."""
    return stores_difference(model.inner) if isinstance(model, View) else isinstance(model, StoredDifference)


def differences(model: Model) -> Reader:
    """A reader of stored differences that gives zeros for tensors that do not differ."""

    def read(name: str, bounds: Bounds) -> torch.Tensor:
        found = model.difference(name, bounds) if isinstance(model, StoredDifference) else None
        return _zeros(name, bounds) if found is None else found

    return read


def view_facts(model: Model) -> list[str]:
    """Sentences without a subject on how `model` is stored, then viewed, innermost view first; often none."""
    return [*view_facts(model.inner), *model.told] if isinstance(model, View) else [*storage_facts(model)]


def listed(names: list[str]) -> str:
    """A count of tensors with the first and the last of them."""
    shown = f"{len(names)} tensor{'s' if len(names) != 1 else ''}, first {names[0]}"
    return shown if len(names) == 1 else f"{shown}, last {names[-1]}"


def _zeros(name: str, bounds: Bounds) -> torch.Tensor:  # noqa: ARG001 - a Reader
    return torch.zeros(bounds[1] - bounds[0])
