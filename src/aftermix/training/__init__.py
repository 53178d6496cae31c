"""Training experts: documents read and packed, a Hugging Face Trainer on them, the result as a model folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftermix.training.optimizers import ASAM, SAM, MergeAware

__all__ = ["ASAM", "SAM", "MergeAware"]


def __getattr__(name: str) -> Any:
    """The optimizers at first use: what only reads data or packs it loads none of them."""
    if name in __all__:
        from aftermix.training import optimizers

        return getattr(optimizers, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
