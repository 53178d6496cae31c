"""Settings under which a search would make a merge that an earlier run has scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aftermix.config import Config
from aftermix.jobs.search.settings import with_settings
from aftermix.jobs.search.space_from_config import own_settings
from aftermix.merging.merge import Recipe
from aftermix.runs.trials import Settings
from aftermix.search.space import Space


def translation(theirs: Config, ours: Config, space: Space) -> Callable[[Settings], Settings | None]:
    """Build the function from settings under the file `theirs` to those of `space`, under `ours`, of the same merge.

    What one file searches, the other may fix: a fixed value is a point, and of searched ones those that equal the
    fixed one are kept. None where there is no such point.
    """

    def translated(settings: Settings) -> Settings | None:
        measured = with_settings(theirs, settings)
        found = own_settings(measured, space.settings)
        return found if _decisive(with_settings(ours, found)) == _decisive(measured) else None

    return translated


def _decisive(config: Config) -> dict[str, Any]:
    """All that decides a merge besides inputs and weights, whichever way the file says it."""
    recipe = Recipe.of(config.merge, vectors=config.vectors, for_search=True)
    method, names = recipe.method, list(config.vectors)
    shares = method.ratios(names) if method.joint else {}
    options = {name: method.options_of(name) | {"ratio": shares.get(name)} for name in names}
    for held in options.values():
        held.pop("density" if method.joint else "ratio")

    settled = {"exclude": recipe.exclude, "seed": recipe.seed, "lambda": recipe.scale, "dtype": recipe.dtype}
    return {"method": method.name, "options": options} | settled
