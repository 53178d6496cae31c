"""The models that a recipe of mergekit lists, each with its weight and density, and what is wrong with the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aftermix.config.places import Weight, list_numbers
from aftermix.errors import AftermixError, Problem, ask_meant
from aftermix.mergekit.layers import read_layer_count
from aftermix.mergekit.references import parse_reference
from aftermix.mergekit.settings import MergekitSetting, Scope, settle
from aftermix.mergekit.weightless import OPTIONS

ON_DELTAS = ("int8_mask", "normalize", "rescale", "lambda")
SHARED = {
    "linear": ("normalize",),
    "task_arithmetic": ON_DELTAS,
    "ties": ON_DELTAS,
    "dare_linear": ON_DELTAS,
    "dare_ties": ON_DELTAS,
    "slerp": ("t",),
    "karcher": ("max_iter", "tol"),
    "model_stock": ("filter_wise",),
}
"""Parameters of the whole recipe, by method: the methods that are read and written."""
TAKEN = SHARED | {
    "della": ON_DELTAS,
    "della_linear": ON_DELTAS,
    "breadcrumbs": ON_DELTAS,
    "breadcrumbs_ties": ON_DELTAS,
    "nuslerp": ("nuslerp_flatten", "nuslerp_row_wise"),
    "sce": ("int8_mask", "select_topk"),
    "passthrough": (),
}
"""The same with those that are read alone."""
ON_MODELS = ("linear", "slerp", "karcher")
"""Methods of which the base is an operand."""
WITHOUT_BASE = ("linear", "karcher", "nuslerp", "passthrough")
"""Methods that may do without a base."""
DENSE = ("ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties")
"""Methods with a density."""
OWN = dict.fromkeys((*DENSE, "task_arithmetic"), ("weight", "density")) | {
    "linear": ("weight",),
    "nuslerp": ("weight",),
    "della": ("weight", "density", "epsilon"),
    "della_linear": ("weight", "density", "epsilon"),
    "breadcrumbs": ("weight", "density", "gamma"),
    "breadcrumbs_ties": ("weight", "density", "gamma"),
}
"""Parameters of a model, by method; the others have none."""
COMMON = {"epsilon": 0.15, "gamma": 0.01}
"""Parameters of a model that all models share here, and mergekit's defaults."""


@dataclass
class RecipeSource:
    """One model of the recipe, with the scopes of its parameters."""

    model: str
    place: str
    scopes: list[Scope]
    weight: MergekitSetting = field(default_factory=lambda: MergekitSetting(0.0))
    density: Weight = 1.0
    common: dict[str, float] = field(default_factory=dict)
    """Values of those of :data:`COMMON` that the method has."""


@dataclass
class RecipeReading:
    """The file while it is read: what it says, what is wrong with it."""

    values: Mapping[str, Any]
    where: str
    problems: list[Problem] = field(default_factory=list)

    def attempt(self, read: Callable[[], Any], otherwise: Any = None) -> Any:
        """Result of `read`; or its problem kept, and `otherwise`."""
        try:
            return read()
        except AftermixError as error:
            self.problems.extend(error.problems)
        return otherwise

    def refuse(self, key: str, found: str, remedy: str) -> None:
        self.problems.append(Problem(f"{self.where}: {key}", found, remedy))

    def refuse_unknown(self, key: str, keys: Mapping[str, Any], known: tuple[str, ...], *, owner: str) -> None:
        for unknown in (name for name in keys if name not in known):
            place = f"{key}.{unknown}" if key else str(unknown)
            self.refuse(place, "is not a known key", ask_meant(f"{owner} takes: {', '.join(known)}.", unknown, known))


def read_sources(reading: RecipeReading, method: str, base: str | None) -> list[RecipeSource]:
    """Every model with its weight and density. The base joins the models of `ON_MODELS`; elsewhere it is no operand."""
    sources = _list_models(reading, method, base)
    names = [source.model for source in sources]
    for name in sorted({name for name in names if names.count(name) > 1}):
        reading.refuse("models", f"'{name}' is listed twice", "Add the two weights up.")
    if method not in WITHOUT_BASE and reading.values.get("slices") and base is not None and base not in names:
        reading.refuse("slices", "lack the base among their sources", "Add `base_model` to the sources.")

    if method not in ON_MODELS:
        sources = [source for source in sources if source.model != base]
    elif base is not None and base not in names and reading.values.get("models"):
        sources.append(RecipeSource(base, "base_model", [("base_model", {}), *_list_recipe_scopes(reading)]))

    for source in sources:
        scopes = [(f"{reading.where}: {place}", parameters) for place, parameters in source.scopes]
        if method not in OPTIONS:
            weight = reading.attempt(partial(settle, "weight", scopes))
            source.weight = weight or source.weight
        if method in DENSE:
            source.density = _read_density(reading, source, scopes)
        for name in [name for name in OWN.get(method, ()) if name in COMMON]:
            read = partial(settle, name, scopes, default=COMMON[name])
            source.common[name] = reading.attempt(read, MergekitSetting(COMMON[name])).value

    if not sources and not reading.problems:
        reading.refuse("models", "name no model besides the base", "Add a model to merge.")
    return sources


def _read_density(reading: RecipeReading, source: RecipeSource, scopes: list[Scope]) -> Weight:
    density: Weight = reading.attempt(lambda: settle("density", scopes, default=1.0).value, 1.0)
    outside = [number for number in list_numbers(density) if not 0 < number <= 1]
    if outside:
        found = f"expected 0 < density <= 1, found {outside[0]:g}"
        reading.refuse(f"{source.place}.parameters.density", found, "Correct it.")
    return density


def read_common_options(reading: RecipeReading, method: str, sources: list[RecipeSource]) -> dict[str, Any]:
    """Options that all models share, from parameters that mergekit has for each of them."""
    options: dict[str, Any] = {}
    for name in [name for name in OWN.get(method, ()) if name in COMMON]:
        values = {source.common.get(name, COMMON[name]) for source in sources}
        if len(values) > 1:
            reading.refuse("models", f"have {len(values)} values of `{name}`", "Give all models the same.")
        options[name] = min(values, default=COMMON[name])

    # As mergekit does, which draws with these probabilities.
    epsilon = options.get("epsilon", 0.0)
    densities = [density for source in sources for density in list_numbers(source.density) if 0 < density < 1]
    if any(not epsilon < density < 1 - epsilon for density in densities):
        found = f"have densities from {min(densities):g} to {max(densities):g}, and epsilon {epsilon:g}"
        reading.refuse("models", found, "Lower `epsilon`: density plus and minus it are probabilities.")
    return options | ({"excess": "gamma"} if "gamma" in options else {})


def _list_recipe_scopes(reading: RecipeReading) -> list[Scope]:
    parameters = reading.values.get("parameters") or {}
    return [("parameters", parameters)] if isinstance(parameters, Mapping) else []


def _list_models(reading: RecipeReading, method: str, base: str | None) -> list[RecipeSource]:
    """The models as `models` or one slice lists them."""
    given = [key for key in ("models", "slices") if reading.values.get(key)]
    if len(given) != 1:
        found = "stands beside `slices`" if given else "is missing"
        reading.refuse("models", found, "List the models once, each with its weight.")
        return []

    entries, outer = reading.values.get("models"), _list_recipe_scopes(reading)
    place = "models"
    if given == ["slices"]:
        entries, outer = _read_only_slice(reading, outer)
        place = "slices[0].sources"
    if not isinstance(entries, list):
        reading.refuse(place, f"expected a list, found {type(entries).__name__}", "List the models.")
        return []

    known = ("model", "parameters") if place == "models" else ("model", "parameters", "layer_range")
    sources = (
        _read_source(reading, f"{place}[{n}]", entry, known, method, base, outer) for n, entry in enumerate(entries)
    )
    return [source for source in sources if source is not None]


def _read_source(
    reading: RecipeReading,
    place: str,
    entry: Any,
    known: tuple[str, ...],
    method: str,
    base: str | None,
    outer: list[Scope],
) -> RecipeSource | None:
    if not isinstance(entry, dict):
        reading.refuse(place, f"expected a model with its parameters, found {entry!r}", "Write {model: PATH}.")
        return None
    reading.refuse_unknown(place, entry, known, owner="An entry")
    parameters = read_parameters(reading, f"{place}.parameters", entry.get("parameters"), per_model=True, method=method)
    where = f"{reading.where}: {place}.model"
    model = reading.attempt(lambda: parse_reference(entry.get("model"), where=where, base=base))
    if model is None:
        return None
    if "layer_range" in known:
        _check_layers(reading, f"{place}.layer_range", model, entry.get("layer_range"))
    return RecipeSource(model, place, [(f"{place}.parameters", parameters), *outer])


def _read_only_slice(reading: RecipeReading, outer: list[Scope]) -> tuple[Any, list[Scope]]:
    """Sources and scopes of the one slice that a recipe may have."""
    slices = reading.values["slices"]
    if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], dict):
        remedy = "One slice over all layers is taken; models are not cut and stacked here."
        reading.refuse(
            "slices", f"expected one slice, found {len(slices) if isinstance(slices, list) else slices!r}", remedy
        )
        return [], outer
    whole = slices[0]
    reading.refuse_unknown("slices[0]", whole, ("sources", "parameters"), owner="A slice")
    return whole.get("sources"), [("slices[0].parameters", whole.get("parameters") or {}), *outer]


def _check_layers(reading: RecipeReading, place: str, model: str, layers: Any) -> None:
    layer_count = reading.attempt(lambda: read_layer_count(model))
    if layer_count is not None and layers != [0, layer_count]:
        reading.refuse(
            place, f"is {layers}, and '{model}' has the layers [0, {layer_count}]", "Take all layers of each model."
        )


def read_parameters(
    reading: RecipeReading, place: str, given: Any, *, per_model: bool, method: str
) -> Mapping[str, Any]:
    """The parameters that stand at one place; those that mergekit would ignore there are problems."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        reading.refuse(place, f"expected a mapping, found {type(given).__name__}", "Write {weight: 0.5}.")
        return {}

    models = OWN.get(method, ())
    for name in given:
        if per_model and name in TAKEN[method]:
            remedy = "Move it to the recipe's own `parameters`; mergekit reads it only there."
            reading.refuse(f"{place}.{name}", "holds for all models", remedy)
        elif name not in models and name not in TAKEN[method]:
            takes = ", ".join(models if per_model else (*models, *TAKEN[method])) or "none for a model"
            reading.refuse(f"{place}.{name}", f"{method} has no parameter '{name}' in mergekit", f"It takes: {takes}.")
    return given
