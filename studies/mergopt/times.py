"""Seconds of a training step by variant, as the training wrote them down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from aftermix.files import write_json
from studies.mergopt.crew import EQUAL_STEPS, TASKS
from studies.mergopt.experts import folder_of
from studies.mergopt.results import head
from studies.world.layout import World


def seconds_a_step(world: World, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Median and least over tasks and seeds, by variant: a run that nothing else disturbed is near the least."""
    found = {}
    for kind in EQUAL_STEPS:
        folders = [folder_of(world, kind.variant, seed=seed) / task for seed in seeds for task in TASKS]
        paths = [folder / "train.json" for folder in folders]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        if runs:
            seconds = [run["seconds"] / run["steps"] for run in runs]
            found[kind.name] = {"median": round(median(seconds), 4), "least": round(min(seconds), 4)}
    return found


def write(path: Path, world: World, seeds: Sequence[int]) -> None:
    """As a file."""
    write_json(path, {**head(), "seconds_a_step": seconds_a_step(world, seeds)})


def read(path: Path) -> dict[str, dict[str, float]]:
    """What :func:`write` wrote."""
    values: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["seconds_a_step"]
    return values
