"""The experts of the study: the world's six tasks, one base, one training file for each optimizer.

`python -m studies.mergopt.experts --seed 0 1 2` trains what is missing. Files of two variants differ by the optimizer,
schedule or rate that the variant names, and by nothing else. With `--tiny` a few variants of a tiny world are trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aftermix.config import parse_config
from aftermix.files import write_atomically
from aftermix.jobs.train.command import train
from studies.world.experts import LEARNING_RATES
from studies.world.layout import FOLDER, World
from studies.world.tiny import parse_study

TOKENS, HALF = 125_000, 62_500
BATCH = 4
"""Sequences of 256 tokens: 122 steps."""
FEW = ("ja", "math")
"""Tasks of the runs on sensitivity."""


@dataclass(frozen=True)
class Variant:
    """One way to train an expert, and how it differs from AdamW at a constant rate."""

    name: str
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"name": "adamw"})
    schedule: str = "constant"
    rate: float = 1.0
    """Multiplies every task's learning rate."""
    pilot: bool = False
    """Whether the scale is the mean absolute deviation of the constant-rate expert's vector."""
    tasks: tuple[str, ...] = tuple(LEARNING_RATES)


AWARE = {"name": "merge_aware"}
MAIN = (
    Variant("constant"),
    Variant("aware", AWARE),
    Variant("fitted", AWARE, pilot=True),
    Variant("sam", {"name": "sam"}),
    Variant("asam", {"name": "asam"}),
    Variant("cosine", schedule="cosine"),
)
SENSITIVITY = (
    Variant("constant-half", rate=0.5, tasks=FEW),
    Variant("fitted-half", AWARE, rate=0.5, pilot=True, tasks=FEW),
    Variant("constant-double", rate=2.0, tasks=FEW),
    Variant("fitted-double", AWARE, rate=2.0, pilot=True, tasks=FEW),
    Variant("aware-2e-3", {**AWARE, "scale": 2e-3}, tasks=FEW),
    Variant("aware-3e-2", {**AWARE, "scale": 3e-2}, tasks=FEW),
)
TABLE = (Variant("fitted-table", {**AWARE, "noise": "table"}, pilot=True, tasks=FEW),)
VARIANTS = {variant.name: variant for variant in (*MAIN, *SENSITIVITY, *TABLE)}
TINY_VARIANTS = ("constant", "fitted", "fitted-table")
"""The page leaves out what is not trained."""


def folder_of(world: World, variant: str, *, seed: int) -> Path:
    """Where the experts of a variant lie, one folder a task."""
    return world.folder.parent / "mergopt" / f"{variant}-{seed}"


def expert(world: World, variant: str, task: str, *, seed: int, half: bool = False) -> Path:
    """Model folder of an expert; `half` is its checkpoint after half the steps."""
    folder = folder_of(world, variant, seed=seed)
    if not half:
        return folder / task
    (checkpoint,) = (folder / f"{task}-checkpoints").glob("tokens-*")
    return checkpoint


def make(world: World, variant: Variant, *, seed: int, threads: int) -> None:
    """Train what is not there yet, task by task where each has a pilot of its own."""
    folder = folder_of(world, variant.name, seed=seed)
    finished = folder / "finished"
    if finished.is_file():
        return
    for task in variant.tasks:
        if (folder / task / "train.json").is_file():
            continue
        section = _section(world, variant, task, seed=seed, threads=threads)
        text = yaml.safe_dump({"base": world.base, "train": section}, sort_keys=False)
        train(parse_config(yaml.safe_load(text), where=f"{variant.name}.yaml", folder=world.folder), folder)
        write_atomically(folder / f"{task}.yaml", text)
    write_atomically(finished, "")


def _section(world: World, variant: Variant, task: str, *, seed: int, threads: int) -> dict[str, Any]:
    optimizer = dict(variant.optimizer)
    if variant.pilot:
        optimizer |= {"scale": "auto", "pilot": str(expert(world, "constant", task, seed=seed))}
    dataset = {"data": str(world.training_text(task)), "tokens": world.pick(TOKENS, tiny=512)}
    return {
        "datasets": {task: {**dataset, "learning_rate": variant.rate * LEARNING_RATES[task]}},
        "schedule": variant.schedule,
        "optimizer": optimizer,
        "context": world.context,
        "batch_size": BATCH,
        "warmup_steps": world.pick(10, tiny=1),
        "checkpoint_tokens": [world.pick(HALF, tiny=256)],
        "save_steps": 0,
        "cache": str(world.folder / "tokens"),
        "threads": threads,
        "seed": seed,
    }


def make_variants(world: World, names: Iterable[str], *, seeds: Iterable[int], threads: int) -> None:
    """Train what is missing of all of them."""
    variants = [VARIANTS[name] for name in names]
    for seed in seeds:
        for variant in variants:
            make(world, variant, seed=seed, threads=threads)


def main() -> None:
    """Train what is missing, in the order that later variants need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--folder", type=Path, default=FOLDER, dest="world")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS], default=[*VARIANTS])
    options = parse_study(parser, lambda _: {"variants": TINY_VARIANTS})
    world = World.open(options.world.resolve())
    make_variants(world, options.variants, seeds=options.seed, threads=options.threads)


if __name__ == "__main__":
    main()
