"""A model presented under other names or in another layout: the parts that every such view has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.model import Model, Span, StoredDifference, TensorInfo, describe_storage

BlockReader = Callable[[str, Span], torch.Tensor]
"""Elements of a named, flattened tensor."""


@dataclass(frozen=True)
class ModelView(ABC):
    """`inner` as a model with the names and shapes of `frame`; it is read as lazily as `inner` itself.

    What `inner` lacks has the values of `frame`, so its difference is exactly 0.
    """

    inner: Model
    frame: Model
    tensors: dict[str, TensorInfo]
    alias: dict[str, str]
    notes: tuple[str, ...]
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

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the flattened tensor; read-only."""
        if span[0] >= span[1]:
            return torch.empty(0, dtype=self.info(name).dtype)
        return self.gather(self.alias.get(name, name), span, read=self.inner.read_block, absent=self.frame.read_block)

    def difference(self, name: str, span: Span) -> torch.Tensor | None:
        """Elements `span` of this model - `frame` in float32; None where nothing of it is `inner`'s."""
        name = self.alias.get(name, name)
        if not self.differs(name) or span[0] >= span[1]:
            return None

        if stores_difference(self.inner):
            return self.gather(name, span, read=build_difference_reader(self.inner), absent=_read_zeros)
        return self.read_block(name, span).to(torch.float32) - self.frame.read_block(name, span).to(torch.float32)

    def differs(self, name: str) -> bool:  # noqa: ARG002 - most views take every tensor from `inner`
        """Tell whether any element of `name` is `inner`'s own."""
        return True

    @abstractmethod
    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:
        """Elements `span` of tensor `name`, put together from what `read` gives under the names of `inner`.

        `absent` gives, under the names of `frame`, what `inner` lacks.
        """


def stores_difference(model: Model) -> bool:
    """Tell whether `model` is known by its difference from the base, itself or beneath its views."""
    return stores_difference(model.inner) if isinstance(model, ModelView) else isinstance(model, StoredDifference)


def build_difference_reader(model: Model) -> BlockReader:
    """A reader of stored differences that gives zeros for tensors that do not differ."""

    def read(name: str, span: Span) -> torch.Tensor:
        difference = model.difference(name, span) if isinstance(model, StoredDifference) else None
        return _read_zeros(name, span) if difference is None else difference

    return read


def describe_views(model: Model) -> list[str]:
    """Sentences without a subject on how `model` is stored, then viewed, innermost view first; often none."""
    return [*describe_views(model.inner), *model.notes] if isinstance(model, ModelView) else [*describe_storage(model)]


def summarise_names(names: list[str]) -> str:
    """A count of tensors with the first and the last of them."""
    shown = f"{len(names)} tensor{'s' if len(names) != 1 else ''}, first {names[0]}"
    return shown if len(names) == 1 else f"{shown}, last {names[-1]}"


def _read_zeros(name: str, span: Span) -> torch.Tensor:  # noqa: ARG001 - a Reader
    return torch.zeros(span[1] - span[0])
