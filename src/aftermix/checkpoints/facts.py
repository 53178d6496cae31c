"""What a reader tells of a model that is not stored plainly: lines that a user sees, and that `lock.json` keeps."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from aftermix.checkpoints.model import Model


@runtime_checkable
class StoredOtherwise(Protocol):
    """A model that says how it is stored."""

    def storage_facts(self) -> list[str]:
        """Sentences without their subject: `is a LoRA adapter: rank 16, 84 tensors moved`."""


def storage_facts(model: Model) -> tuple[str, ...]:
    """How `model` is stored; nothing for plain safetensors."""
    return tuple(model.storage_facts()) if isinstance(model, StoredOtherwise) else ()
