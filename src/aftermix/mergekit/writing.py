"""A configuration as a recipe of mergekit 0.1.5: the same merge, or a refusal that names what mergekit cannot say.

What changes no tensor (names of vectors, ranges, token counts) becomes a note. mergekit is told to compute in float32,
as we do; left to itself it computes in the models' own type.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from aftermix.checkpoints.names import build_matcher
from aftermix.config import Config, VectorConfig
from aftermix.config.places import Weight, dump_weight, list_numbers
from aftermix.errors import Problem, join_place, refuse_if_any
from aftermix.mergekit import weightless
from aftermix.mergekit.references import name_vectors, write_reference
from aftermix.mergekit.settings import is_part_of_names
from aftermix.merging.methods import BoundMethod, bind
from aftermix.merging.rules.inter import disjoint_mean, weighted_mean, weighted_sum
from aftermix.merging.rules.intra import keep_all, magnitude, random_rescale
from aftermix.merging.rules.kinds import Rule

NAMES: dict[tuple[Rule, Rule], tuple[str, dict[str, Any]]] = {
    (keep_all, weighted_sum): ("task_arithmetic", {"normalize": False}),
    (keep_all, weighted_mean): ("task_arithmetic", {"normalize": True}),
    (keep_all, disjoint_mean): ("ties", {}),
    (magnitude, disjoint_mean): ("ties", {}),
    (random_rescale, weighted_sum): ("dare_linear", {"normalize": False}),
    (random_rescale, weighted_mean): ("dare_linear", {"normalize": True}),
    (random_rescale, disjoint_mean): ("dare_ties", {}),
}
"""mergekit's method by our two rules, with the parameters that this choice implies."""


@dataclass
class MergekitRecipe:
    """A recipe of mergekit, and what it leaves out without changing a tensor."""

    recipe: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def format_file(self) -> str:
        """The file: notes as comments, then the recipe."""
        comments = "".join(f"# {line}\n" for note in self.notes for line in note.splitlines())
        return comments + yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)


def translate_to_mergekit(
    config: Config, *, tensors: Sequence[str] | None = None, dtype: str | None = None, adapters: Collection[str] = ()
) -> MergekitRecipe:
    """`config` as a recipe of mergekit.

    `tensors`, the names in the base, allow any pattern of `merge.exclude`; without them only parts of names can be
    written. `dtype` is the stored type of the base, used when the configuration leaves the type to it. `adapters`
    names the vectors that are adapters of the base.
    Raises :class:`ManyProblemsError` with everything that mergekit cannot express.
    """
    bound = bind(config.merge, vectors=config.vectors)
    if bound.rules[1] in weightless.NAMES:
        return _translate_weightless(config, bound, dtype=dtype, adapters=adapters)
    filters, problems = _write_filters(config, bound, tensors)
    refuse_if_any([*problems, *_list_inexpressible(config, bound)])
    method, shared = _translate_rules(bound)
    recipe: dict[str, Any] = {"merge_method": method}
    recipe |= {"base_model": write_reference(config.base)} if config.base else {}
    recipe["models"] = _list_operands(config, bound, filters, adapters, method=method)
    recipe |= {"parameters": shared | ({"lambda": config.merge.scale} if config.merge.scale != 1 else {})}
    recipe |= _write_dtypes(config.merge.dtype or dtype, config.merge.operand_dtype)
    return MergekitRecipe(recipe, _write_notes(config, bound, dtype, adapters))


def _translate_weightless(
    config: Config, bound: BoundMethod, *, dtype: str | None, adapters: Collection[str]
) -> MergekitRecipe:
    refuse_if_any([*_check_vectors(config, bound), *weightless.list_problems(config, bound)])
    recipe = weightless.write_recipe(config, bound, adapters) | _write_dtypes(
        config.merge.dtype or dtype, config.merge.operand_dtype
    )
    return MergekitRecipe(recipe, _write_notes(config, bound, dtype, adapters) + weightless.list_notes(config, bound))


def _translate_rules(bound: BoundMethod) -> tuple[str, dict[str, Any]]:
    """mergekit's name of the method and the parameters of the whole recipe."""
    if bound.operands == "models":
        return "linear", {"normalize": True}
    method, implied = NAMES[bound.rules]
    shared = dict(implied)
    if "normalize" in bound.options:
        shared["normalize"] = bound.options["normalize"]
    if method.startswith("dare"):
        shared["rescale"] = bound.options["rescale"] != "none"
    return method, shared


def _list_operands(
    config: Config, bound: BoundMethod, filters: Sequence[str], adapters: Collection[str], *, method: str
) -> list[dict[str, Any]]:
    """Every model with its weight and density. In `linear` a base that is no vector takes part with weight 0."""
    models = []
    for name, vector in sorted(config.vectors.items()):
        density = bound.collect_options(name).get("density", 1.0 if method == "ties" else None)
        own = {"weight": _write_weight(vector, filters)}
        own |= {"density": _write_placed(density)} if density is not None else {}
        adapted = config.base if name in adapters else None
        models.append({"model": write_reference(vector.model, adapted=adapted), "parameters": own})
    is_vector = config.base in [vector.model for vector in config.vectors.values()]
    if method == "linear" and config.base and not is_vector:
        models.append({"model": write_reference(config.base), "parameters": {"weight": 0.0}})
    return models


def _write_weight(vector: VectorConfig, filters: Sequence[str]) -> Any:
    zeros = [{"filter": filter_, "value": 0.0} for filter_ in filters]
    weight = _write_placed(vector.weight)
    return [*zeros, *(weight if isinstance(weight, list) else [{"value": weight}])] if zeros else weight


def _write_placed(number: Weight) -> Any:
    """Rules as mergekit's conditions: one for each pattern, and lists as gradients."""
    if not isinstance(number, tuple):
        return number
    return [
        ({} if part is None else {"filter": part}) | {"value": dump_weight((rule,))[0]["value"]}
        for rule in number
        for part in rule.match or (None,)
    ]


def _write_dtypes(dtype: str | None, operands: str | None) -> dict[str, str]:
    if operands is not None:
        return {"dtype": operands} | ({"out_dtype": dtype} if dtype not in (None, operands) else {})
    if dtype is None:
        return {}
    return {"dtype": "float32"} | ({"out_dtype": dtype} if dtype != "float32" else {})


def _write_filters(
    config: Config, bound: BoundMethod, tensors: Sequence[str] | None
) -> tuple[list[str], list[Problem]]:
    """Parts of names that pick exactly the excluded tensors."""
    patterns = config.merge.exclusions(for_search=False)
    if patterns and bound.operands == "models":
        return [], [
            Problem("merge.exclude", "mergekit's linear has no tensors that keep the base's values", "Drop it.")
        ]

    plain = [pattern for pattern in patterns if is_part_of_names(pattern)]
    others = [pattern for pattern in patterns if not is_part_of_names(pattern)]
    if not others:
        return plain, []
    if tensors is None:
        found = f"'{others[0]}' is a pattern; mergekit's filters are parts of names"
        return [], [Problem("merge.exclude", found, "Name parts of names, or have the base at hand.")]

    # A part of a name must not catch a tensor that is merged.
    is_plain, is_other = build_matcher(plain, where="merge.exclude"), build_matcher(others, where="merge.exclude")
    names = [name for name in tensors if is_other(name) and not is_plain(name)]
    excluded = {*names, *(name for name in tensors if is_plain(name))}
    caught = [(part, name) for part in names for name in tensors if part in name and name not in excluded]
    problems = [
        Problem("merge.exclude", f"a filter for '{part}' would also catch '{name}'", "Exclude both, or neither.")
        for part, name in caught
    ]
    return [*plain, *names], problems


def _list_inexpressible(config: Config, bound: BoundMethod) -> list[Problem]:
    """Everything that decides tensors and has no words in a recipe of mergekit."""
    return [*_check_vectors(config, bound), *_check_options(config, bound)]


def _check_vectors(config: Config, bound: BoundMethod) -> Iterator[Problem]:
    if not config.vectors:
        yield Problem("vectors", "there is nothing to merge", "Add `vectors:`.")
    if bound.operands == "deltas" and not config.base:
        yield Problem("base", f"{bound.name} needs the base of its vectors", "Add `base: PATH`.")
    if config.merge.vocabulary is not None:
        yield Problem("merge.vocabulary", "mergekit aligns tokens by rules of its own", "Remove it.")

    placed = [(name, key) for name in sorted(config.vectors) for key in ("weight", "density")]
    for name, key in placed:
        rules = getattr(config.vectors[name], key)
        parts = [part for rule in rules for part in rule.match or ()] if isinstance(rules, tuple) else []
        if other := next((part for part in parts if not is_part_of_names(part)), None):
            found = f"'{other}' is a pattern; mergekit's filters are parts of names"
            yield Problem(join_place("vectors", name, key), found, "Name parts of names.")

    for name in sorted(name for name, vector in config.vectors.items() if vector.prefix):
        yield Problem(
            join_place("vectors", name, "prefix"), "mergekit maps no names", "Store the model under the base's names."
        )

    for name in sorted(name for name, vector in config.vectors.items() if vector.layers):
        found = "is written by hand in mergekit, as `passthrough` with `slices`"
        yield Problem(join_place("vectors", name, "layers"), found, "Merge the stack here, and name the result.")


def _check_options(config: Config, bound: BoundMethod) -> Iterator[Problem]:
    options = bound.options
    if bound.rules not in NAMES:
        translated = ", ".join(sorted({name for name, _ in NAMES.values()} | set(weightless.NAMES.values())))
        yield Problem("merge", f"{bound.name} has no counterpart in mergekit", f"There is one for: {translated}.")

    if options.get("scope") == "model":
        yield Problem("merge.scope", "mergekit trims tensor by tensor", "Set `scope: tensor`.")
    if options.get("election") == "count":
        yield Problem("merge.election", "mergekit elects signs by sum", "Set `election: sum`.")
    if options.get("rescale") == "density" and _drops(config, bound):
        remedy = "Set `rescale: l1` or `rescale: none`."
        yield Problem("merge.rescale", "mergekit rescales to the L1 norm, not by the density", remedy)

    negative = sorted(name for name, vector in config.vectors.items() if min(list_numbers(vector.weight)) < 0)
    if negative and options.get("normalize") and options.get("divisor") == "absolute":
        found = f"mergekit divides by the signed sum of weights, and '{negative[0]}' has a negative one"
        yield Problem("merge.divisor", found, "Set `divisor: signed`, or `normalize: false`.")


def _drops(config: Config, bound: BoundMethod) -> bool:
    return any(min(list_numbers(bound.collect_options(name).get("density", 1.0))) < 1 for name in config.vectors)


def _write_notes(config: Config, bound: BoundMethod, dtype: str | None, adapters: Collection[str]) -> list[str]:
    """Notes on what the recipe does not say, and the tensors do not need."""
    notes = ["Written by aftermix for mergekit 0.1.5."]
    names = sorted(config.vectors)
    if names != name_vectors([config.vectors[name].model for name in names]):
        notes.append(f"The vectors were called {', '.join(names)}, in this order.")

    if bound.rules[0] is random_rescale and _drops(config, bound):
        notes.append("mergekit draws other random masks: the result is equal in distribution only.")
        notes.append(f"aftermix used seed {config.merge.seed}; mergekit takes one as --random-seed.")
    if config.merge.dtype is None and dtype is None:
        notes.append("Without `dtype`, mergekit computes in the models' own type. For the arithmetic of aftermix add")
        notes.append("`dtype: float32` and, as `out_dtype`, the type of the base.")

    instructions = sorted(name for name, vector in config.vectors.items() if vector.role == "instruction")
    if instructions:
        # mergekit's `tokenizer_source` would also drop the rows of embeddings that stand for no token.
        notes.append("mergekit copies tokenizer, chat template and generation settings from the base; aftermix takes")
        notes.append(f"them from {config.vectors[instructions[0]].model}. Copy them over.")

    searched = sorted(name for name, vector in config.vectors.items() if vector.range is not None)
    if searched:
        notes.append(f"Left out: the search ranges of {', '.join(searched)}.")
    return notes + (["Adapters: mergekit needs `--lora-merge-cache FOLDER`."] if adapters else [])
