"""The statistics that a merge by saliency needs, read and held against the models that are merged."""

from __future__ import annotations

from pathlib import Path

from aftermix.checkpoints.pool import Pool
from aftermix.config import Config
from aftermix.errors import AftermixError, Problem, refuse_if_any
from aftermix.merging.merge import Merger, Recipe
from aftermix.saliency.storage import Statistics, read_statistics


def merger_of(config: Config, pool: Pool, recipe: Recipe) -> Merger:
    """The merge of `config`, with the statistics that its method needs. Raises for statistics of other models."""
    needed = recipe.method.needs_statistics and config.merge.statistics is not None
    return Merger.of(pool, recipe, statistics=read_all(config, pool) if needed else None)


def read_all(config: Config, pool: Pool) -> dict[str, Statistics]:
    """Statistics by vector. Raises :class:`ManyProblemsError` with every fault of all of them."""
    folder = Path(config.merge.statistics or "")
    problems: list[Problem] = []
    found: dict[str, Statistics] = {}
    for vector, expert in pool.experts.items():
        try:
            found[vector] = read_statistics(folder, vector)
            found[vector].refuse_other(expert)
        except AftermixError as error:
            problems.extend(error.problems)
    refuse_if_any(problems)
    return found


def statistics_files(config: Config) -> list[Path]:
    """Files that decide a merge by saliency, in order of name; none for any other merge."""
    if config.merge.statistics is None:
        return []
    folder = Path(config.merge.statistics)
    return [folder / f"{vector}{suffix}" for vector in sorted(config.vectors) for suffix in (".json", ".safetensors")]
