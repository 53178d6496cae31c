"""The statistics that a merge by saliency needs, read and held against the models that are merged."""

from __future__ import annotations

from pathlib import Path

from aftermix.checkpoints.pool import ModelPool
from aftermix.config import Config
from aftermix.errors import AftermixError, Problem, refuse_if_any
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.saliency import ActivationStatistics, MissingStatistics
from aftermix.saliency.storage import has_statistics, read_statistics, refuse_no_folder


def open_merger(config: Config, pool: ModelPool, recipe: MergeRecipe) -> Merger:
    """Open the merge of `config`, with the statistics that its method needs. Raises for statistics of other models."""
    return Merger.build(
        pool, recipe, statistics=read_all_statistics(config, pool) if recipe.method.needs_statistics else None
    )


def read_all_statistics(config: Config, pool: ModelPool) -> dict[str, ActivationStatistics]:
    """Read the statistics by vector; with `uncalibrated: magnitude`, a stand-in for those that there are none of.

    Without it, and where no folder is named, they are left out. Raises :class:`ManyProblemsError` with every fault of
    all that are there.
    """
    folder = Path(config.merge.statistics) if config.merge.statistics is not None else None
    if folder is not None:
        refuse_no_folder(folder)
    by_magnitude = config.merge.uncalibrated == "magnitude"

    problems: list[Problem] = []
    statistics: dict[str, ActivationStatistics] = {}
    for vector, expert in pool.experts.items():
        if by_magnitude and (folder is None or not has_statistics(folder, vector)):
            statistics[vector] = MissingStatistics(frozenset(info.name for info in pool.layout))
        elif folder is not None:
            try:
                measured = read_statistics(folder, vector)
                measured.refuse_other(expert)
                statistics[vector] = measured
            except AftermixError as error:
                problems.extend(error.problems)

    refuse_if_any(problems)
    return statistics


def list_statistics_files(config: Config) -> list[Path]:
    """Files that decide a merge by saliency, in order of name; none for any other merge."""
    if config.merge.statistics is None:
        return []
    folder = Path(config.merge.statistics)
    by_magnitude = config.merge.uncalibrated == "magnitude"
    used = [vector for vector in sorted(config.vectors) if not by_magnitude or has_statistics(folder, vector)]
    return [folder / f"{vector}{suffix}" for vector in used for suffix in (".json", ".safetensors")]
