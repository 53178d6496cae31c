"""The weight that a low-rank adapter makes of its layer: what an imagined merge moves while the adapter is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from aftermix.training.optimizers.local_shard import LocalShard

ADAPTER = "default"


@dataclass(frozen=True)
class FoldedWeight:
    """`W + scale B A` of one adapted layer, whose `W` is frozen.

    A loss at `W + offset` with the same `A` and `B` is the loss where the folded weight has moved by `offset`, and its
    gradient is the one that the adapter needs. To move `A` and `B` themselves would move the folded weight by their
    product with each other: by another amount and in a subspace.
    """

    name: str
    """Of the weight in the model without adapters, which keys its noise."""
    layer: Any
    """The adapted layer; read again at each step, since sharding replaces its tensors."""

    @property
    def weight(self) -> torch.Tensor:
        """The frozen `W`."""
        weight: torch.Tensor = self.layer.get_base_layer().weight
        return weight

    @property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`A` of shape (rank, in) and `B` of shape (out, rank)."""
        return self.layer.lora_A[ADAPTER].weight, self.layer.lora_B[ADAPTER].weight

    def add_own_vector(self, shard: LocalShard, pull: float) -> None:
        """Add `pull * scale B A` to the local part of `W`: the expert's own vector, since `B` starts at zero."""
        low, high = (_gather(factor.detach()) for factor in self.factors)
        vector = (high @ low) * self.layer.scaling[ADAPTER]
        vector = vector.T if self.layer.fan_in_fan_out else vector
        shard.local.add_(shard.copy_part(vector.contiguous()).to(shard.local.dtype), alpha=pull)


def find_folded_weights(model: torch.nn.Module) -> list[FoldedWeight]:
    """The folded weight of every layer of `model` that has an adapter; none without adapters."""
    return [
        FoldedWeight(f"{name}.weight", layer)
        for name, layer in model.named_modules()
        if ADAPTER in getattr(layer, "lora_A", {}) and hasattr(layer, "get_base_layer")
    ]


def _gather(tensor: Any) -> torch.Tensor:
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole
