"""Trainings of a verification, one in each worker at a time: mixtures of the same data, each on tokens of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aftermix import progress
from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.config import Config
from aftermix.jobs.train.command import train
from aftermix.report.training.page import write_training_report
from aftermix.runs.workers.lost_attempts import LostAttemptRecord, note_lost_attempt
from aftermix.workers.crew import LostAttempt, WorkerCrew
from aftermix.workers.executor import Workplace
from aftermix.workers.opening import find_site


@dataclass(frozen=True)
class TrainingOrder:
    """The training of one dataset."""

    config: Config
    output: Path


def open_training(plan: None) -> Callable[[TrainingOrder], None]:
    """Nothing is opened beforehand: a training opens its base by itself."""
    del plan
    return run_training


def run_training(order: TrainingOrder) -> None:
    """Train as ordered; lines that it tells go back with the answer."""
    train(order.config, order.output, log=progress.say)


def train_at_once(config: Config, run: Path, output: Path) -> None:
    """Train the datasets of `config.train` that `output` lacks on the workers that `config.evaluate` asks for.

    With one worker, or one dataset, nothing is done: :func:`~aftermix.jobs.train.command.train` is to follow, which
    takes what is there. A lost worker's training goes on from its last resume point. Lost tries are accounted for in
    `run`. Raises as a training does.
    """
    assert config.train is not None  # noqa: S101 - the caller made it
    assert config.evaluate is not None  # noqa: S101 - likewise
    missing = [name for name in config.train.datasets if not (output / name / TRAINING_FILE).is_file()]
    site = find_site(config.evaluate) if config.evaluate.workers > 1 and len(missing) > 1 else None
    if site is None:
        return

    # Each takes the share of the machine that an evaluation takes; how long it may take nobody knows.
    place = Workplace(open_training, None, site.layout.build_environments(site.layout.threads))
    progress.say(f"workers: {site.layout.describe()}, a training each")

    def note(lost: LostAttempt) -> None:
        note_lost_attempt(run, LostAttemptRecord(**vars(lost)))

    executor = site.open_executor(place)
    try:
        crew = WorkerCrew(executor, min(place.workers, len(missing)), note=note)
        for name in missing:
            alone = config.train.model_copy(update={"datasets": {name: config.train.datasets[name]}})
            order = TrainingOrder(config.model_copy(update={"train": alone}), Path(os.path.abspath(output)))  # noqa: PTH100
            crew.submit(name, order, label=f"training {name}")
        for name in progress.bar(missing, label="trainings", unit="model"):
            outcome = crew.take(name)
            if outcome.error is not None:
                raise outcome.error
    finally:
        executor.close()
    write_training_report(output, list(config.train.datasets))
