"""Checkpoints along the way: after which steps, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from aftermix.errors import TrainingError

CheckpointTokens = int | Sequence[int] | None
"""A checkpoint after each so many tokens, or at each of these numbers of tokens."""


def plan_checkpoints(tokens_by_sequence: Sequence[int], *, batch_size: int, wanted: CheckpointTokens) -> dict[int, int]:
    """Tokens seen by step, of the steps after which a checkpoint is due: the first that reaches each wanted number.

    A step that reaches several gives one. Raises :class:`TrainingError` for a number that the run does not reach.

    >>> plan_checkpoints([10, 10, 10, 10, 5], batch_size=2, wanted=15)
    {1: 20, 2: 40, 3: 45}
    >>> plan_checkpoints([10, 10, 10, 10, 5], batch_size=2, wanted=[21])
    {2: 40}
    """
    if wanted is None:
        return {}

    after = list(accumulate(map(int, tokens_by_sequence)))
    seen = [after[min(end, len(after)) - 1] for end in range(batch_size, len(after) + batch_size, batch_size)]
    numbers = range(wanted, seen[-1] + 1, wanted) if isinstance(wanted, int) else sorted(wanted)

    beyond = wanted if isinstance(wanted, int) else max(wanted)
    if beyond > seen[-1]:
        found = f"asks for a checkpoint at {beyond} tokens, but the run has {seen[-1]}"
        raise TrainingError("train.checkpoint_tokens", found, "Lower it, or train on more tokens.")

    due: dict[int, int] = {}
    step = 1
    for number in numbers:
        while seen[step - 1] < number:
            step += 1
        due[step] = seen[step - 1]
    return due


def name_checkpoint_folder(expert: Path, tokens: int) -> Path:
    """Folder of the checkpoint after `tokens` tokens of the expert in folder `expert`.

    >>> name_checkpoint_folder(Path("experts/ja"), 50_000).as_posix()
    'experts/ja-checkpoints/tokens-000000050000'
    """
    return expert.with_name(f"{expert.name}-checkpoints") / f"tokens-{tokens:012d}"
