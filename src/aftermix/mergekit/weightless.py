"""Methods of mergekit that take no weight for each model: SLERP, Karcher mean, model stock; in both directions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from aftermix.config import Config
from aftermix.config.places import PlaceRule, Weight, list_numbers
from aftermix.errors import Problem, join_place
from aftermix.mergekit.references import write_reference
from aftermix.merging.methods import BoundMethod
from aftermix.merging.rules.kinds import Rule
from aftermix.merging.rules.model_stock import model_stock
from aftermix.merging.rules.spherical import karcher, slerp

OPTIONS: dict[str, dict[str, str]] = {
    "slerp": {},
    "karcher": {"max_iterations": "max_iter", "tolerance": "tol"},
    "model_stock": {"filter_wise": "filter_wise"},
    "sce": {"select_topk": "select_topk"},
}
"""By method, our options and mergekit's parameters; `t` of SLERP is a weight here."""
NAMES: dict[Rule, str] = {slerp: "slerp", karcher: "karcher", model_stock: "model_stock"}


def read_options(method: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for mergekit's parameters of the whole recipe."""
    return {ours: shared[theirs] for ours, theirs in OPTIONS[method].items()}


def read_weight(method: str, shared: Mapping[str, Any], *, is_base: bool) -> Weight:
    """The weight that a model has in what mergekit does with it."""
    if method != "slerp":
        return 1.0
    t: Weight = shared["t"]
    if not is_base:
        return t
    return tuple(map(_complement_rule, t)) if isinstance(t, tuple) else float(1 - t)


def _complement_rule(rule: PlaceRule) -> PlaceRule:
    value = tuple(1 - number for number in rule.value) if isinstance(rule.value, tuple) else 1 - rule.value
    return PlaceRule(match=rule.match, value=value)


def write_recipe(config: Config, bound: BoundMethod, adapters: Collection[str]) -> dict[str, Any]:
    """Method, models and parameters of a recipe whose :func:`list_problems` are none."""
    method, names = NAMES[bound.rules[1]], sorted(config.vectors)
    models = {
        name: write_reference(config.vectors[name].model, adapted=config.base if name in adapters else None)
        for name in names
    }

    parameters = {theirs: bound.options[ours] for ours, theirs in OPTIONS[method].items()}
    base = write_reference(config.base) if config.base else None
    if method == "slerp":
        first = next((name for name in names if models[name] == base), names[0])
        base = models[first]
        weights = {name: list_numbers(config.vectors[name].weight)[0] for name in names}
        parameters["t"] = sum(weight for name, weight in weights.items() if name != first) / sum(weights.values())
    elif method == "karcher" and base not in models.values():
        base = None  # it would join the models

    return (
        {"merge_method": method}
        | ({"base_model": base} if base else {})
        | {"models": [{"model": models[name]} for name in names], "parameters": parameters}
    )


def list_problems(config: Config, bound: BoundMethod) -> Iterator[Problem]:
    """Everything that mergekit cannot say of a merge by one of these methods."""
    method, weights = NAMES[bound.rules[1]], {vector.weight for vector in config.vectors.values()}
    if config.merge.exclusions(for_search=False):
        yield Problem("merge.exclude", f"mergekit's {method} has no tensors that keep the base's values", "Drop it.")
    if config.merge.scale != 1:
        yield Problem("merge.lambda", f"mergekit's {method} has no lambda", "Drop it.")

    if method == "slerp" and len(config.vectors) != 2:
        yield Problem("vectors", f"slerp is between two models, there are {len(config.vectors)}", "Keep two.")
    placed = [name for name, vector in sorted(config.vectors.items()) if isinstance(vector.weight, tuple)]
    if placed:
        found = "depends on the place, which is not written"
        yield Problem(join_place("vectors", placed[0], "weight"), found, "Give one number.")
    elif method == "slerp" and sum(list_numbers(vector.weight)[0] for vector in config.vectors.values()) == 0:
        yield Problem("vectors", "slerp divides by the sum of weights, which is 0", "Give at least one weight.")

    if method != "slerp" and len(weights) > 1:
        yield Problem("vectors", f"mergekit's {method} has no weights, and these differ", "Give all vectors the same.")
    if method == "model_stock" and len(config.vectors) < 2:
        yield Problem("vectors", "mergekit's model_stock wants two models beside the base", "Add a vector.")


def list_notes(config: Config, bound: BoundMethod) -> list[str]:
    """Notes on what the recipe leaves out."""
    models = [vector.model for vector in config.vectors.values()]
    if config.base in models or bound.operands == "deltas":
        return []
    frame = config.base or "the first model by name"
    return [f"aftermix takes configuration and tokenizer from {frame}; mergekit from base_model or the first model."]
