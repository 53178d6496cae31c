"""Sequences as the model takes them: tokens, the labels among them, positions where documents are kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

IGNORED = -100
"""Label of a position that is not predicted (PyTorch's `ignore_index`)."""


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """One sequence of `n` tokens. The model shifts: label `i` is predicted from the tokens before it."""

    ids: torch.Tensor
    """(n,) int64."""
    labels: torch.Tensor
    """(n,) int64: the token, or :data:`IGNORED`."""
    positions: torch.Tensor | None = None
    """(n,) int64, from 0 in each document; None: documents are not told apart."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predictions(self) -> int:
        """Tokens that the loss is on."""
        return int((self.labels[1:] != IGNORED).sum())

    def truncate(self, tokens: int) -> TokenSequence:
        """The first `tokens` tokens of it."""
        positions = None if self.positions is None else self.positions[:tokens]
        return TokenSequence(self.ids[:tokens], self.labels[:tokens], positions)


def collate(rows: Sequence[TokenSequence | torch.Tensor]) -> dict[str, torch.Tensor]:
    """One batch; a plain tensor of token ids is a sequence of which everything is predicted.

    A shorter sequence is filled up, unlabelled, behind its end, where causal attention never looks. Where rows have
    positions the batch has `position_ids`, which restart at each document: from them, and from the absence of an
    attention mask, transformers makes attention that does not cross documents.
    """
    whole = [row if isinstance(row, TokenSequence) else TokenSequence(row, row) for row in rows]
    batch = {
        "input_ids": _pad_values([row.ids for row in whole], 0),
        "labels": _pad_values([row.labels for row in whole], IGNORED),
    }

    if any(row.positions is not None for row in whole):
        # The filling's zeros are documents of one token each, so no document runs on into it.
        batch["position_ids"] = _pad_values([_fill_positions(row) for row in whole], 0)

    return batch


def _fill_positions(row: TokenSequence) -> torch.Tensor:
    return torch.arange(len(row)) if row.positions is None else row.positions


def _pad_values(values: list[torch.Tensor], filling: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=filling)
