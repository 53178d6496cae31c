"""The experts of a seed, the instruction sibling, and one long run with checkpoints, all by `aftermix train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aftermix.config import parse_config
from aftermix.files import write_atomically
from aftermix.jobs.train.command import train
from studies.world.layout import World

TOKENS = 250_000
LEARNING_RATES = {"ja": 5.0e-4, "zh": 5.0e-4, "de": 5.0e-4, "math": 2.5e-4, "code": 2.5e-4, "problems": 2.5e-4}
SIBLING = "it"
SIBLING_LEARNING_RATE = 5.0e-4
LONG_TOKENS, CHECKPOINT_TOKENS = 480_000, 60_000
LONG_LEARNING_RATE = 5.0e-4
TINY_SHARE = 250
"""In a tiny world a model reads this part of the tokens."""


FIRST = ("ja", "math", "code")
"""Trained before the long run and the others, since most studies need no more."""


@dataclass(frozen=True)
class Run:
    """One call of `aftermix train`."""

    name: str
    folder: Path
    train: dict[str, Any]


def runs(world: World, *, seed: int, threads: int) -> list[Run]:
    """What is trained for one seed: the seed decides which documents come, and in which order."""
    warm_up = world.pick(10, tiny=1)
    shared = {"context": world.context, "batch_size": 8, "warmup_steps": warm_up, "threads": threads, "seed": seed}
    rates = {**LEARNING_RATES, SIBLING: SIBLING_LEARNING_RATE}
    datasets = {name: _dataset(world, name, rates[name], TOKENS) for name in (*world.domains, SIBLING)}
    first = {name: datasets.pop(name) for name in FIRST}
    long = {world.long_run: _dataset(world, world.long_run, LONG_LEARNING_RATE, LONG_TOKENS)}
    experts = world.folder / f"experts-{seed}"
    constant = {"schedule": "constant", "checkpoint_tokens": world.pick(CHECKPOINT_TOKENS, tiny=256)}
    return [
        Run("first", experts, {"datasets": first, "schedule": "cosine", **shared}),
        Run("long", world.folder / f"long-{seed}", {"datasets": long, **constant, **shared}),
        Run("others", experts, {"datasets": datasets, "schedule": "cosine", **shared}),
    ]


def make_experts(world: World, *, seed: int, threads: int) -> None:
    """Train what is not there yet. A finished run keeps the file that made it, and is not begun again."""
    for run in runs(world, seed=seed, threads=threads):
        text = yaml.safe_dump({"base": world.base, "train": run.train}, sort_keys=False)
        finished = run.folder / f"{run.name}.yaml"
        if finished.is_file() and _without_threads(finished.read_text()) == _without_threads(text):
            continue
        train(parse_config(yaml.safe_load(text), where=finished.name, folder=world.folder), run.folder)
        write_atomically(finished, text)


def _dataset(world: World, name: str, learning_rate: float, tokens: int) -> dict[str, Any]:
    budget_tokens = world.pick(tokens, tiny=tokens // TINY_SHARE)
    return {"data": str(world.training_text(name)), "tokens": budget_tokens, "learning_rate": learning_rate}


def _without_threads(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if "threads:" not in line)
