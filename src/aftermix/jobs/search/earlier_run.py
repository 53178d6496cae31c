"""Settings under which a search would make a merge that an earlier run has scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aftermix.config import Config
from aftermix.jobs.search.settings import apply_settings
from aftermix.jobs.search.space_from_config import read_own_settings
from aftermix.merging.merge import MergeRecipe
from aftermix.runs.trials import Settings
from aftermix.search.space import SearchSpace


def build_translation(theirs: Config, ours: Config, space: SearchSpace) -> Callable[[Settings], Settings | None]:
    """Build the function from settings under the file `theirs` to those of `space`, under `ours`, of the same merge.

    What one file searches, the other may fix: a fixed value is a point, and of searched ones those that equal the
    fixed one are kept. None where there is no such point.
    """

    def translate(settings: Settings) -> Settings | None:
        measured = apply_settings(theirs, settings)
        own = read_own_settings(measured, space.settings)
        return own if _collect_decisive(apply_settings(ours, own)) == _collect_decisive(measured) else None

    return translate


def _collect_decisive(config: Config) -> dict[str, Any]:
    """All that decides a merge besides inputs and weights, whichever way the file says it."""
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    method, names = recipe.method, list(config.vectors)
    shares = method.compute_ratios(names) if method.is_exclusive else {}
    options = {name: method.collect_options(name) | {"ratio": shares.get(name)} for name in names}
    for held in options.values():
        held.pop("density" if method.is_exclusive else "ratio")

    settled = {"exclude": recipe.exclude, "seed": recipe.seed, "lambda": recipe.scale, "dtype": recipe.dtype}
    return {"method": method.name, "options": options} | settled
