"""The live model that a scorer of the user's own is handed, with its tokenizer, and a count of what it computes."""

from __future__ import annotations

from typing import Any

import torch

from aftermix.evaluation.engines.positions import PositionCounter


class ScoredModel:
    """A model of any class, and its tokenizer, None where it has none."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        try:
            self._positions: PositionCounter | None = PositionCounter(model)
        except (NotImplementedError, AttributeError):  # a model of images or sound may have no embeddings
            self._positions = None

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        device: torch.device = self.model.device
        return device

    @property
    def counts_positions(self) -> bool:
        """True if the model has input embeddings, where positions are counted."""
        return self._positions is not None

    @property
    def computed_positions(self) -> int:
        """Positions computed so far: rows times tokens of all that became embeddings."""
        return 0 if self._positions is None else self._positions.count
