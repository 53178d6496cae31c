"""The job that a file is for, and the sections which that job needs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from aftermix.config import Config, TrainConfig, explain_missing_section
from aftermix.errors import Problem, TrainingError

JobKind = Literal["merge", "evaluate", "search", "mixture", "train"]
SECTIONS = ("base", "vectors", "evaluate", "mixture", "train")
NEEDED: dict[JobKind, tuple[str, ...]] = {
    "merge": ("vectors",),
    "evaluate": ("base", "evaluate"),
    "search": ("base", "vectors", "evaluate"),
    "mixture": ("base", "vectors", "evaluate", "mixture"),
    "train": ("base", "train"),
}
"""Sections without which the job does not begin; only `method: linear` merges without a base."""


def list_sections(config: Config) -> frozenset[str]:
    """Names of the sections that `config` fills."""
    return frozenset(name for name in SECTIONS if getattr(config, name))


def find_job_kind(sections: Collection[str]) -> JobKind:
    """Find the job of a file that has `sections`: its mixture, else its search, else its merge, else its training."""
    if "train" in sections and "vectors" not in sections:
        return "train"
    if "mixture" in sections:
        return "mixture"
    if "evaluate" in sections:
        return "search" if "vectors" in sections else "evaluate"
    return "merge"


def refuse_no_dataset(settings: TrainConfig) -> None:
    """Raise :class:`TrainingError` for a section that names data and no expert."""
    if not settings.datasets:
        found = f"names no dataset, only sources ({', '.join(settings.sources)}), on which no expert is trained"
        raise TrainingError("train", found, "Name those to train an expert on under `datasets`.")


def list_missing_sections(job: JobKind, sections: Collection[str]) -> list[Problem]:
    """List the sections that `job` needs beside `sections`."""
    return [explain_missing_section(name) for name in NEEDED[job] if name not in sections]
