"""The parts that all models have in common which are stored as their difference from a base."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from aftermix.checkpoints.model import Model, Span, TensorInfo


class OnBase(ABC):
    """The base's names, shapes, types and ties; its values where nothing differs, else moved by the difference."""

    base: Model

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The base's: an expert has the same names, shapes and types."""
        return self.base.tensors

    @property
    def alias(self) -> dict[str, str]:
        """The base's ties."""
        return self.base.alias

    def has(self, name: str) -> bool:
        """Tell whether the base has this tensor."""
        return self.alias.get(name, name) in self.base.tensors

    def info(self, name: str) -> TensorInfo:
        """The base's entry of `name`."""
        return self.base.tensors[self.alias.get(name, name)]

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of base + difference in float32; the base's own block where nothing differs."""
        base = self.base.read_block(name, span)
        difference = self.difference(name, span)
        return base if difference is None else base.float() + difference

    @abstractmethod
    def difference(self, name: str, span: Span) -> torch.Tensor | None:
        """Elements `span` of expert - base in float32; None for a tensor that does not differ."""
