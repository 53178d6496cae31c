"""Sums over the inputs of linear layers, and the one number per input channel that is made of them.

    # N tokens, C input channels, E experts of a mixture-of-experts layer (1 for any other layer)

Saliency of element (i, j) of a linear weight is `1/2 h_jj delta_ij^2` with `H = 2 X X^T`, so `(sum_n x_nj^2)
delta_ij^2`. The factor 1 / N is the same for every element and changes no order, so the mean is kept.
Source: OBIM, section 3.1 (Equations 5 to 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

XStatistic = Literal["second_moment", "mean_input"]


def sum_channels(inputs: torch.Tensor, statistic: XStatistic) -> torch.Tensor:
    """`sum_n x_nj^2`, or `sum_n x_nj` for `mean_input`, over all but the last dimension: (..., C) to float32 (C,).

    Inputs are widened to float32 before they are squared.
    """
    inputs_NC = inputs.reshape(-1, inputs.shape[-1]).to(torch.float32)
    return (inputs_NC.square() if statistic == "second_moment" else inputs_NC).sum(dim=0)


def average_squares(sums_EC: torch.Tensor, tokens: Sequence[int], statistic: XStatistic) -> torch.Tensor:
    """`sums / N`, squared for `mean_input` (the square of the mean): float64 (E, C) to float32 (E, C).

    An expert without a token has 0 everywhere, never NaN.
    """
    counts_E1 = torch.tensor(tokens, dtype=torch.float64, device=sums_EC.device).clamp(min=1)[:, None]
    means_EC = sums_EC / counts_E1
    return (means_EC if statistic == "second_moment" else means_EC.square()).to(torch.float32)


@dataclass(eq=False)
class ChannelSums:
    """Running sums of one weight. What a batch adds is a float32 sum; the total is float64.

    float32 would stop growing where a batch is 2^24 times smaller than the total.
    """

    shape: tuple[int, ...]
    """Of the weight as the live model holds it."""
    axis: int
    """The dimension that is the input channel."""
    device: torch.device
    sums_EC: torch.Tensor = field(init=False)
    tokens: list[int] = field(init=False)

    def __post_init__(self) -> None:
        experts = self.shape[0] if len(self.shape) == 3 else 1
        self.sums_EC = torch.zeros(experts, self.shape[self.axis], dtype=torch.float64, device=self.device)
        self.tokens = [0] * experts

    def add(self, sums_C: torch.Tensor, tokens: int, *, expert: int = 0) -> None:
        """Add the sums of `tokens` tokens."""
        self.sums_EC[expert] += sums_C
        self.tokens[expert] += tokens
