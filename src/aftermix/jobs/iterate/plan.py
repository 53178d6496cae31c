"""The price of one round of `aftermix iterate`, and of all."""

from __future__ import annotations

from dataclasses import replace

from aftermix.config import Config
from aftermix.jobs.iterate.round_files import build_search_file, build_training_file, check_iteration
from aftermix.jobs.plan.command import plan
from aftermix.jobs.plan.estimate import JobEstimate


def plan_rounds(config: Config) -> JobEstimate:
    """Disk of all rounds, and tokens and time of one: its trainings, and its search with the base in experts' places.

    Raises what the jobs of the first round would raise on their input.
    """
    section = check_iteration(config)
    assert config.base is not None  # noqa: S101 - checked above; for the type checker
    assert config.train is not None  # noqa: S101

    training = plan(build_training_file(config, config.base))
    found = plan(build_search_file(config, config.base, dict.fromkeys(config.train.datasets, config.base)))

    return replace(
        found,
        disk_bytes=section.rounds * (training.disk_bytes + found.disk_bytes),
        vector_bytes=section.rounds * training.vector_bytes,
        memory_bytes=max(training.memory_bytes, found.memory_bytes),
        training=training.training,
        adapter_ranks=training.adapter_ranks,
        training_speeds=training.training_speeds,
        timed_step=training.timed_step,
        remarks=training.remarks,
        rounds=section.rounds,
    )
