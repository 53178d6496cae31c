"""Proof that a model keeps packed documents apart: asked of the model itself, not of a list of architectures.

transformers reads documents from positions that restart and masks attention across them, in the architectures that
build their masks from positions. Others (state-space models, some with masks of their own) would mix documents without
a word, so a model shows first that it does not.
"""

from __future__ import annotations

from typing import Any

import torch

from aftermix.errors import TrainingError

LENGTHS = (5, 7)
TOLERANCE = 1e-4
"""Of the logits' largest magnitude: what float32 may differ between one shape of a computation and another."""


def refuse_unmaskable(model: Any, *, where: str) -> None:
    """Raise :class:`TrainingError` unless `model` gives packed documents the logits that they have alone."""
    was_training = model.training
    model.eval()

    try:
        with torch.no_grad():
            worst = _measure_difference(model)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise _build_refusal(where, f"its model takes no positions that restart ({reason})") from error
    finally:
        model.train(was_training)

    if not worst <= TOLERANCE:
        raise _build_refusal(
            where, f"its model reads across documents all the same (logits differ by {worst:.1e} of their size)"
        )


def _build_refusal(where: str, found: str) -> TrainingError:
    return TrainingError(where, found, "Remove `mask_documents`, or train another architecture.")


def _measure_difference(model: Any) -> float:
    """Between two documents packed and alone, as a share of the largest logit."""
    rows = int(model.config.get_text_config().vocab_size)
    draw = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    short, long = (torch.randint(rows, (1, length), generator=draw).to(device) for length in LENGTHS)

    # Two rows: some attention kernels read documents from positions in a batch of one row alone.
    ids = torch.cat([torch.cat([short, long], dim=1), torch.cat([long, short], dim=1)])
    positions = torch.stack([_restart_positions(LENGTHS), _restart_positions(LENGTHS[::-1])]).to(device)
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits

    first, second = (model(input_ids=document, use_cache=False).logits for document in (short, long))
    alone = torch.cat([torch.cat([first, second], dim=1), torch.cat([second, first], dim=1)])
    return float((packed - alone).abs().max() / alone.abs().max())


def _restart_positions(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])
