"""The merge of a run at weights of one's own: method, options and exclusions as its search had them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.config.places import place_weights
from aftermix.files import follow_moved_paths
from aftermix.jobs.provenance import resolve_defaults
from aftermix.jobs.run_folder.comparison import refuse_other_content
from aftermix.jobs.search.named_weights import complete_point
from aftermix.jobs.search.settings import apply_settings
from aftermix.jobs.search.space_from_config import build_space, choose_run_settings
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.reader import read_run
from aftermix.yaml_file import read_yaml


def configure_run_merge(run: Path, weights: Mapping[str, float]) -> Config:
    """The configuration of the merge at `weights` of the run folder `run`.

    A vector, or a rule of its range, that is not named weighs 0, or what the range holds it at; searched settings are
    those of the winner, or before there is one those that the file has. The winner's own weights give the winner's
    model again. Models that are found where the project was moved to are held against the hashes of the run. Raises
    :class:`AftermixError` for a folder that is no run, and :class:`SearchError` for a vector that the run has not, and
    for other models.
    """
    read = read_run(run)
    space = build_space(read.config)
    full = place_weights(read.config.vectors, complete_point(weights, space))
    settings = choose_run_settings(read, space)
    if _is_moved(run):
        refuse_other_content(run, config=read.config, pool=open_pool(read.config))

    config = apply_settings(read.config, settings)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    vectors = {name: vector.model_copy(update={"weight": full[name]}) for name, vector in config.vectors.items()}
    return resolve_defaults(config, recipe).model_copy(update={"vectors": vectors})


def _is_moved(run: Path) -> bool:
    """True where a path of the run's file leads nowhere, and elsewhere since the whole project was moved."""
    values = read_yaml(run / CONFIG_FILE)
    return bool(follow_moved_paths(values, run) != values)
