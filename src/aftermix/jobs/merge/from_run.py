"""The merge of a run at weights of one's own: method, options and exclusions as its search had them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aftermix.config import Config
from aftermix.config.places import place_weights
from aftermix.jobs.provenance import resolve_defaults
from aftermix.jobs.search.named_weights import complete_point
from aftermix.jobs.search.settings import apply_settings
from aftermix.jobs.search.space_from_config import build_space, choose_run_settings
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.reader import read_run


def configure_run_merge(run: Path, weights: Mapping[str, float]) -> Config:
    """The configuration of the merge at `weights` of the run folder `run`.

    A vector, or a rule of its range, that is not named weighs 0; searched settings are those of the winner, or before
    there is one those that the file has. The winner's own weights give the winner's model again. Raises
    :class:`AftermixError` for a folder that is no run, and :class:`SearchError` for a vector that the run has not.
    """
    read = read_run(run)
    space = build_space(read.config)
    full = place_weights(read.config.vectors, complete_point(weights, space))
    settings = choose_run_settings(read, space)

    config = apply_settings(read.config, settings)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    vectors = {name: vector.model_copy(update={"weight": full[name]}) for name, vector in config.vectors.items()}
    return resolve_defaults(config, recipe).model_copy(update={"vectors": vectors})
