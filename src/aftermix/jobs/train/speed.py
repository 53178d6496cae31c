"""The speed of trainings, measured on a few steps over made-up tokens before any data is read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import OptimizerConfig, TrainConfig
from aftermix.jobs.train.command import build_recipe
from aftermix.jobs.train.expert_run import make_trainable
from aftermix.training.base_model import load_base, refuse_context
from aftermix.training.trainer import TrainingRecipe, train_one

STEPS = 4
"""Steps of which all but the first are timed: it builds what later ones find."""
STEP_TOKENS = 2048
"""Most tokens of a timed step: a large batch is as fast per token."""


def measure_training_speeds(settings: TrainConfig, base: Checkpoint) -> dict[str, float]:
    """Tokens a second by dataset; datasets that are trained alike (the same adapters, or none) are measured once.

    Nothing is written, and the base is loaded once for each way. Raises what the training itself would of packages,
    patterns and the context.
    """
    speeds: dict[str, float] = {}
    for names in settings.group_alike(settings.datasets):
        speeds |= dict.fromkeys(names, _measure_speed(settings, base, names[0]))
    return speeds


def count_step_sequences(settings: TrainConfig) -> int:
    """Sequences of a timed step."""
    return max(1, min(settings.batch_size, STEP_TOKENS // settings.context))


def _measure_speed(settings: TrainConfig, base: Checkpoint, name: str) -> float:
    """Tokens a second of training the expert `name`: forward, backward and the optimizer's step."""
    model = load_base(base)
    refuse_context(settings.context, model, masked=settings.mask_documents)
    make_trainable(model, settings.settle_for(name), where=settings.locate_lora(name))

    sequences = _make_sequences(settings, rows=int(model.get_input_embeddings().weight.shape[0]))
    ended: list[float] = []

    def note_step(_: int, __: Sequence[float]) -> None:
        ended.append(time.perf_counter())

    train_one(
        model,
        sequences,
        recipe=_make_recipe(settings, name),
        device=settings.device,
        threads=settings.threads,
        label=f"time {name}",
        after_step=note_step,
        tangent=settings.tangent,
    )
    timed = (STEPS - 1) * count_step_sequences(settings) * settings.context
    return timed / max(ended[-1] - ended[0], 1e-9)


def _make_recipe(settings: TrainConfig, name: str) -> TrainingRecipe:
    """The recipe of the expert, in steps of the sample's size and without what takes more steps than these."""
    recipe = build_recipe(settings, settings.datasets[name])
    optimizer = recipe.optimizer
    if not isinstance(optimizer.scale, float):  # the scale of the moves does not change their time
        optimizer = optimizer.model_copy(update={"scale": OptimizerConfig().scale, "pilot": None})
    return replace(
        recipe,
        batch_size=count_step_sequences(settings),
        accumulation=1,
        warmup_steps=0,
        schedule="constant",
        optimizer=optimizer,
    )


def _make_sequences(settings: TrainConfig, *, rows: int) -> list[torch.Tensor]:
    """Sequences of the context's length over all rows of the embeddings."""
    count, length = STEPS * count_step_sequences(settings), settings.context
    return [(torch.arange(length) + number * length) % rows for number in range(count)]
