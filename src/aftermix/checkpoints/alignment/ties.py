"""Tensors with several names: the name that one model stores and another does not, and heads trained apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from aftermix.checkpoints.alignment.view import BlockReader, ModelView
from aftermix.checkpoints.formats.configuration import untie_configuration
from aftermix.checkpoints.model import Model, Span, hold_equal, read_tensor
from aftermix.checkpoints.names import COPIES, is_tied


@dataclass(frozen=True)
class UntiedView(ModelView):
    """A model whose head is equal to its embedding, as two tensors."""

    @property
    def config(self) -> dict[str, Any]:
        """Configuration without the tie."""
        return untie_configuration(self.inner.config, self.tensors)

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:  # noqa: ARG002
        """Elements `span` of the model itself."""
        return read(name, span)


@dataclass(frozen=True)
class SecondNameView(ModelView):
    """A model that knows its tied tensor under the name that another model stores it under, too."""

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:  # noqa: ARG002
        """Elements `span` of the model itself."""
        return read(name, span)


def add_second_names(model: Model, others: Iterable[Model]) -> Model:
    """`model` with the names of tensors that `others` store under one name and it under another; mostly itself.

    Writers that drop all but one of several shared tensors keep whichever comes first: the head, or a half's embedding.
    """
    second = {
        stored: name
        for other in others
        for name, stored in other.alias.items()
        if name in model.tensors and not model.has(stored) and (name.endswith(COPIES) or is_tied(model.config))
    }
    return SecondNameView(model, model, model.tensors, model.alias | second, ()) if second else model


def untie_heads(frame: Model, experts: Mapping[str, Model]) -> Model:
    """`frame` with each head untied that it stores beside an equal embedding and one of `experts` has for itself."""
    owners = {
        head: min(own)
        for head, embedding in frame.alias.items()
        if head in frame.tensors
        and (own := [vector for vector, expert in experts.items() if has_own_head(expert, head, embedding)])
    }
    if not owners:
        return frame

    alias = {head: embedding for head, embedding in frame.alias.items() if head not in owners}
    notes = [
        f"ties {head} to {frame.alias[head]}; they are merged apart, for vector '{vector}' has a head of its own"
        for head, vector in owners.items()
    ]
    return UntiedView(frame, frame, frame.tensors, alias, tuple(notes))


def has_own_head(model: Model, head: str, embedding: str) -> bool:
    """Tell whether `model` stores `head` with other values than `embedding`."""
    if head not in model.tensors or head in model.alias or not model.has(embedding):
        return False
    return not hold_equal(read_tensor(model, head), read_tensor(model, embedding))
