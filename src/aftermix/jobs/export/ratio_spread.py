"""The spread of the ratios that a run found: how far other draws, or merges as good, would put them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from aftermix.checkpoints.safe_files import read_json
from aftermix.errors import SearchError
from aftermix.mixture.ratios import convert_weights

OF_MIXTURE = "95 % interval of the ratio, by the mixture's bootstrap and surrogates"
REMEDY = "Name the best.json of a search or mixture run."


@dataclass(frozen=True)
class RatioSpread:
    """Lowest and highest ratio by domain, and what they are of."""

    bounds: Mapping[str, tuple[float, float]]
    source: str


def read_spread(best: Path) -> RatioSpread | None:
    """The spread of the ratios in the `best.json` of a run; None where the run tells none.

    Of a mixture these are the intervals of its optimum. Of a search they are the lowest and the highest ratio among the
    finalists that select items did not tell apart from the winner.
    """
    record = read_json(best, remedy=REMEDY)
    optimum, ratios = record.get("optimum"), record.get("ratios")
    intervals = optimum.get("share_intervals") if isinstance(optimum, dict) else None
    if isinstance(intervals, dict):
        return RatioSpread({name: (float(low), float(high)) for name, (low, high) in intervals.items()}, OF_MIXTURE)
    if not isinstance(ratios, dict) or len(ratios) < 2:
        return None

    found = [ratios, *_list_finalist_ratios(record.get("candidates"), list(ratios))]
    if len(found) < 3:  # the winner is one of the finalists
        return None
    bounds = {name: (min(each[name] for each in found), max(each[name] for each in found)) for name in ratios}
    return RatioSpread(bounds, f"lowest and highest of the {len(found) - 1} best trials, as select items leave them")


def _list_finalist_ratios(candidates: JsonValue, domains: list[str]) -> list[dict[str, float]]:
    """Ratios of each finalist that was not dropped, where its weights give any."""
    found = []
    for candidate in candidates if isinstance(candidates, list) else []:
        if not isinstance(candidate, dict) or candidate.get("dropped_after") is not None:
            continue
        weights = cast(Mapping[str, float], candidate.get("weights") or {})
        try:
            found.append(convert_weights({name: weights.get(name, 0.0) for name in domains}, domains))
        except SearchError:  # no domain of it has a weight above 0
            continue
    return found
