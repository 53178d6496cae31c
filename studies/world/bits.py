"""Bits per byte of held-out text: far less noisy than the share of items that are answered right.

B windows of a batch, T tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

BATCH_WINDOWS = 8
UNSCORED = -100


@dataclass(frozen=True)
class HeldOut:
    """Windows of text, each after an end-of-text token, and how many bytes they spell."""

    batches: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Inputs and the tokens that follow them; :data:`UNSCORED` on padding."""
    bytes: int

    @staticmethod
    def of(texts: Sequence[str], tokenizer: Any, *, context: int) -> HeldOut:
        """Cut `texts` into windows of `context` tokens.

        `tokenizer` is a byte-level one: as many characters as a token has, so many bytes it spells.
        """
        rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        cuts = [row[start : start + context] for row in rows for start in range(0, len(row), context)]
        cuts.sort(key=len, reverse=True)
        size = sum(len(token) for cut in cuts for token in tokenizer.convert_ids_to_tokens(cut))
        starts = range(0, len(cuts), BATCH_WINDOWS)
        return HeldOut(tuple(_batch(cuts[at : at + BATCH_WINDOWS], tokenizer.eos_token_id) for at in starts), size)


def bits_per_byte(model: Any, text: HeldOut) -> float:
    """`sum -log2 p(token | window so far) / bytes`, lower is better."""
    nats = 0.0
    with torch.inference_mode():
        for inputs_BT, targets_BT in text.batches:
            logits_BTV = model(input_ids=inputs_BT, use_cache=False).logits.float()
            lost = cross_entropy(
                logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=UNSCORED, reduction="none"
            )
            nats += lost.double().sum().item()
    return nats / math.log(2) / text.bytes


def _batch(cuts: Sequence[Sequence[int]], end: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = len(cuts[0])
    inputs = [[end, *cut[:-1], *[end] * (longest - len(cut))] for cut in cuts]
    targets = [[*cut, *[UNSCORED] * (longest - len(cut))] for cut in cuts]
    return torch.tensor(inputs), torch.tensor(targets)
