"""`passthrough` of mergekit: slices of one model, stacked; or one model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from aftermix.mergekit.references import name_vectors, parse_reference
from aftermix.mergekit.sources import RecipeReading

ONE_MODEL = "All slices are of one model here: stack those of several with mergekit, and name the result."


def read_passthrough(reading: RecipeReading, base: str | None) -> dict[str, Any]:
    """The section `vectors`: the one model, with the ranges of its blocks. What does not fit is kept in `reading`."""
    _refuse_scales(reading, "parameters", reading.values)
    taken = list(_list_slices(reading))
    models = list(dict.fromkeys(model for model, _ in taken))
    if len(models) > 1:
        reading.refuse("slices", f"are of {len(models)} models", ONE_MODEL)
    if not models and not reading.problems:
        reading.refuse("slices", "name no model", "Add slices, each with one source.")
    if base is not None and models and base not in models:
        reading.refuse("base_model", f"'{base}' is not the model of the slices", ONE_MODEL)
    if not models:
        return {}

    ranges = [layers for _, layers in taken if layers is not None]
    return {name_vectors(models[:1])[0]: {"model": models[0]} | ({"layers": ranges} if ranges else {})}


def _list_slices(reading: RecipeReading) -> Iterator[tuple[str, list[int] | None]]:
    """Model and range of each slice; of a recipe with `models`, the one model and no range."""
    given = [key for key in ("models", "slices") if reading.values.get(key)]
    slices = reading.values.get(given[0]) if len(given) == 1 else None
    if not isinstance(slices, list):
        reading.refuse("slices", "expected a list of slices", "Write one entry for each, with one source.")
        return
    if given == ["models"] and len(slices) != 1:
        reading.refuse("models", f"passthrough is of one model, there are {len(slices)}", ONE_MODEL)
        return

    for number, entry in enumerate(slices):
        place = f"{given[0]}[{number}]"
        source = entry if given == ["models"] else _read_only_source(reading, place, entry)
        if not isinstance(source, dict):
            reading.refuse(place, "expected one source", "A slice of passthrough comes from one model.")
            continue
        known = ("model", "parameters") if given == ["models"] else ("model", "parameters", "layer_range")
        reading.refuse_unknown(place, source, known, owner="An entry")
        _refuse_scales(reading, f"{place}.parameters", source)
        read = partial(parse_reference, source.get("model"), where=f"{reading.where}: {place}.model")
        model, layers = reading.attempt(read), source.get("layer_range")
        if given == ["slices"] and not (isinstance(layers, list) and [type(end) for end in layers] == [int, int]):
            reading.refuse(f"{place}.layer_range", f"expected [start, end], found {layers!r}", "Name the blocks.")
            continue
        if model is not None:
            yield model, layers


def _read_only_source(reading: RecipeReading, place: str, entry: Any) -> Any:
    """The one source of a slice; None where there is another number of them."""
    if not isinstance(entry, dict):
        return None
    reading.refuse_unknown(place, entry, ("sources", "parameters"), owner="A slice")
    _refuse_scales(reading, f"{place}.parameters", entry)
    sources = entry.get("sources")
    return sources[0] if isinstance(sources, list) and len(sources) == 1 else None


def _refuse_scales(reading: RecipeReading, place: str, entry: Mapping[str, Any]) -> None:
    """Keep the problem of an entry with parameters, which stand at `place`: those of this method are scales."""
    if entry.get("parameters"):
        reading.refuse(place, "scale tensors", "Remove them: blocks are stacked as they are.")
