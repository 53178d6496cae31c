"""A recipe of mergekit 0.1.5 as a configuration: the same merge, or a refusal that names what differs.

Facts about mergekit are from its source: `config.py` (the file), `parameter_resolver.py` (scopes), `plan.py` (the base
joins the models), `merge_methods/` (parameters and defaults). It ignores keys that it does not know; here they are
errors. Paths are taken from the working directory, as mergekit takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from aftermix.config import Config, parse_config
from aftermix.config.partial_file import PartialConfig, parse_partial_config
from aftermix.config.places import dump_weight
from aftermix.errors import AftermixError, ConfigError, refuse_if_any
from aftermix.mergekit.passthrough import read_passthrough
from aftermix.mergekit.references import name_vectors, parse_reference
from aftermix.mergekit.settings import MergekitSetting, Scope, settle, write_pattern
from aftermix.mergekit.sources import (
    SHARED,
    TAKEN,
    WITHOUT_BASE,
    RecipeReading,
    RecipeSource,
    read_common_options,
    read_parameters,
    read_sources,
)
from aftermix.mergekit.weightless import OPTIONS, read_options, read_weight
from aftermix.yaml_file import read_yaml

DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {"normalize": True},
    "task_arithmetic": {"normalize": False, "rescale": False},
    "ties": {"normalize": True, "rescale": False},
    "dare_linear": {"normalize": False, "rescale": True},
    "dare_ties": {"normalize": False, "rescale": True},
    "della": {"normalize": True, "rescale": True},
    "della_linear": {"normalize": False, "rescale": True},
    "breadcrumbs": {"normalize": False, "rescale": False},
    "breadcrumbs_ties": {"normalize": False, "rescale": False},
    "slerp": {"t": 0.5},
    "nuslerp": {"nuslerp_flatten": True, "nuslerp_row_wise": False},
    "sce": {"select_topk": 1.0},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "model_stock": {"filter_wise": False},
}
KEYS = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
    "random_seed",
    "embed_slerp",
)
"""The last three decide nothing in mergekit 0.1.5; a seed is taken as that of the random choices."""
UNSUPPORTED = {
    "modules": ("merges parts of a model each in its own way", "Give one list of `models` for the whole model."),
}
INTRA = {"dare_linear": "random", "della_linear": "magnitude_sampled", "breadcrumbs": "band"}
"""Intra rule of the methods whose sum may be normalised, which makes an unnamed pair."""
CLOSE = 0.9
"""Least likeness of a misspelt method to the one that is meant; methods of mergekit are further apart."""
DTYPES = ("bfloat16", "float16", "float32")


def load_recipe(path: Path) -> Config:
    """The configuration in the file at `path`: ours, or mergekit's, which a `merge_method` gives away.

    A merge measures nothing: an `evaluate:` whose tasks are still to be named, as `aftermix init` writes it, is left
    out.

    Raises :class:`ConfigError` for a folder, and what the reader of either raises.
    """
    if path.is_dir():
        remedy = (
            "Name a file. The folder of a search is merged by `aftermix merge RUN --weights NAME=NUMBER,... -o OUT`."
        )
        raise ConfigError(str(path), "expected a file, found a folder", remedy)
    values = read_yaml(path)
    if "merge_method" in values:
        return read_mergekit(values, where=path.name)
    if {"gate_mode", "experts"} & values.keys():
        found = "is a recipe of mergekit-moe, which builds a mixture of experts from dense models"
        raise ConfigError(path.name, found, "Build it with `mergekit-moe`; a merge has the architecture of its models.")
    return parse_config(_leave_out_unnamed_tasks(values), where=path.name, folder=path.parent)


def _leave_out_unnamed_tasks(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without an `evaluate:` that names no task and no function."""
    section = values.get("evaluate")
    if not isinstance(section, dict) or section.get("function") is not None or section.get("tasks"):
        return values
    return {name: value for name, value in values.items() if name != "evaluate"}


def load_partial_recipe(path: Path) -> PartialConfig:
    """As :func:`load_recipe`, with what can be used of the file beside its faults."""
    values = read_yaml(path)
    if "merge_method" in values:
        return read_partial_mergekit(values, where=path.name)
    return parse_partial_config(values, where=path.name, folder=path.parent)


def read_partial_mergekit(values: Mapping[str, Any], *, where: str) -> PartialConfig:
    """As :func:`read_mergekit`; of a recipe with faults the models that it names, to be looked at beside them."""
    sections = frozenset({"base", "vectors", "merge"})
    try:
        return PartialConfig(read_mergekit(values, where=where), (), sections)
    except AftermixError as error:
        return PartialConfig(_collect_models(values), tuple(error.problems), sections)


def _collect_models(values: Mapping[str, Any]) -> Config:
    """Base and vectors as far as their references can be read, without weights and options."""
    slices = values.get("slices")
    first = slices[0] if isinstance(slices, list) and slices and isinstance(slices[0], dict) else {}
    entries = values.get("models") or first.get("sources")
    named = [entry.get("model") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    def read(reference: Any, base: str | None = None) -> str | None:
        try:
            return None if reference is None else parse_reference(reference, where="", base=base)
        except AftermixError:  # has been told
            return None

    base = read(values.get("base_model"))
    models = list(dict.fromkeys(model for reference in named if (model := read(reference, base)) not in (None, base)))
    found = [model for model in models if model is not None]
    vectors = {name: {"model": model} for name, model in zip(name_vectors(found), found, strict=True)}
    return parse_config({"vectors": vectors} | ({"base": base} if base else {}), where="", folder=Path.cwd())


def read_mergekit(values: Mapping[str, Any], *, where: str) -> Config:
    """The configuration that merges as mergekit does with the recipe `values`, from a file called `where`.

    Raises :class:`ManyProblemsError` with everything in it that has no counterpart here.
    """
    reading = RecipeReading(values, where)
    method = values.get("merge_method")
    if not isinstance(method, str) or method not in TAKEN:
        raise ConfigError(f"{where}: merge_method", *_describe_method(method))
    for key, (found, remedy) in UNSUPPORTED.items():
        if values.get(key) is not None:
            reading.refuse(key, found, remedy)
    others = {key: value for key, value in values.items() if key not in UNSUPPORTED}
    reading.refuse_unknown("", others, KEYS, owner="A recipe")

    base = None
    if values.get("base_model") is not None:
        base = reading.attempt(lambda: parse_reference(values["base_model"], where=f"{where}: base_model"))
    elif method not in WITHOUT_BASE:
        needed = "the model that it starts from" if method == "slerp" else "the base of its vectors"
        reading.refuse("base_model", f"{method} needs {needed}", "Add `base_model: PATH`.")

    if method == "passthrough":
        return _build_stack(reading, base)
    sources = read_sources(reading, method, base)
    shared = _read_shared(reading, method)
    if method in OPTIONS:
        _weigh(reading, method, sources, shared, base)
    merge = _translate_merge(reading, method, sources, shared)
    instruction = _find_tokenizer_model(reading, base)
    vectors = _translate_vectors(reading, method, sources, None if method == "slerp" else base, instruction)

    refuse_if_any(reading.problems)
    content = {"vectors": vectors, "merge": merge} | ({"base": base} if base else {})
    return parse_config(content, where=where, folder=Path.cwd())


def _build_stack(reading: RecipeReading, base: str | None) -> Config:
    """The configuration of blocks of one model that are stacked: the model itself at weight 1."""
    vectors = read_passthrough(reading, base)
    instruction = _find_tokenizer_model(reading, base)
    if instruction is not None and instruction not in [vector["model"] for vector in vectors.values()]:
        reading.refuse("tokenizer_source", f"'{instruction}' is not the model of the slices", "Remove it.")
    merge = {"compat": "mergekit", "method": "linear", **_translate_types(reading), **_translate_files(reading)}

    refuse_if_any(reading.problems)
    return parse_config({"vectors": vectors, "merge": merge}, where=reading.where, folder=Path.cwd())


def _describe_method(method: Any) -> tuple[str, str]:
    """Fault and remedy of a method that is not taken: misspelt, or another merge here than in mergekit."""
    only_read = [name for name in TAKEN if name not in SHARED]
    known = f"The same in both: {', '.join(SHARED)}. Read alone: {', '.join(only_read)}."
    close = get_close_matches(str(method).lower().replace("-", "_"), TAKEN, n=1, cutoff=CLOSE)
    if close:
        return f"there is no method '{method}'", f"Did you mean '{close[0]}'? {known}"
    return f"'{method}' does not give here what it gives in mergekit", known


def _read_shared(reading: RecipeReading, method: str) -> dict[str, Any]:
    """The parameters of the whole recipe: `normalize`, `rescale`, `lambda`. `int8_mask` changes no value."""
    given = read_parameters(reading, "parameters", reading.values.get("parameters"), per_model=False, method=method)
    scopes: list[Scope] = [(f"{reading.where}: parameters", given)]
    slices = reading.values.get("slices")
    if isinstance(slices, list) and slices and isinstance(slices[0], dict):
        inner = read_parameters(
            reading, "slices[0].parameters", slices[0].get("parameters"), per_model=False, method=method
        )
        scopes.insert(0, (f"{reading.where}: slices[0].parameters", inner))

    defaults: dict[str, Any] = {"lambda": 1.0, "int8_mask": False} | DEFAULTS[method]
    if method == "slerp" and not any("t" in scope for _, scope in scopes):
        reading.refuse("parameters.t", "is required", "Set `t`: 0 is `base_model`, 1 the other model.")

    settings = {
        name: reading.attempt(partial(settle, name, scopes, default=default), MergekitSetting(default))
        for name, default in defaults.items()
    }
    return {name: setting.value for name, setting in settings.items()}


def _weigh(
    reading: RecipeReading, method: str, sources: list[RecipeSource], shared: Mapping[str, Any], base: str | None
) -> None:
    """Give each model the weight that it has in a method without weights."""
    for source in sources:
        source.weight = MergekitSetting(read_weight(method, shared, is_base=source.model == base))
    if method == "slerp" and len(sources) != 2 and not reading.problems:
        reading.refuse("models", f"slerp is between two models, there are {len(sources)}", "Keep two.")


def _translate_merge(
    reading: RecipeReading, method: str, sources: list[RecipeSource], shared: dict[str, Any]
) -> dict[str, Any]:
    """The section `merge`."""
    merge = {"compat": "mergekit"}
    if method == "nuslerp":
        merge |= _translate_nuslerp(reading, sources, shared)
    else:
        merge |= _translate_method(reading, method, sources, shared)
    excluded = _list_exclusions(method, sources)
    return (
        merge
        | ({"lambda": shared["lambda"]} if shared["lambda"] != 1 else {})
        | _translate_types(reading)
        | ({"exclude": excluded} if excluded else {})
        | _translate_files(reading)
    )


def _translate_method(
    reading: RecipeReading, method: str, sources: list[RecipeSource], shared: dict[str, Any]
) -> dict[str, Any]:
    """Method and options; a normalised sum is the pair of the same intra rule and `mean`."""
    if method in OPTIONS:
        return {"method": method, **read_options(method, shared)}
    normalize, density = shared["normalize"], _find_common_density(sources)
    if method == "linear":
        placed = [source.weight.placed for source in sources]
        total = sum(weight for weight in placed if not isinstance(weight, tuple))
        if not normalize and (total != 1 or any(isinstance(weight, tuple) for weight in placed)):
            found = f"is false, and the weights sum to {total:g}: the models would be added up"
            reading.refuse("parameters.normalize", found, "Give weights that sum to 1, or normalise.")
        return {"method": method}

    if method == "task_arithmetic":
        return {"intra": "all", "inter": "mean"} if normalize else {"method": method}
    options = density | read_common_options(reading, method, sources)
    if method.startswith(("dare", "della")):
        options["rescale"] = "l1" if shared["rescale"] else "none"
    elif shared["rescale"]:
        reading.refuse("parameters.rescale", f"{method} does not rescale here", "Remove it, or use dare_ties.")
    if method in ("ties", "dare_ties", "della", "breadcrumbs_ties"):
        return {"method": method, **options, "normalize": normalize}
    return (
        {"intra": {"rule": INTRA[method], **options}, "inter": "mean"} if normalize else {"method": method, **options}
    )


def _translate_nuslerp(
    reading: RecipeReading, sources: list[RecipeSource], shared: Mapping[str, Any]
) -> dict[str, Any]:
    """On the models themselves, or with a base on the vectors."""
    if len(sources) != 2 and not reading.problems:
        reading.refuse("models", f"nuslerp is between two models, there are {len(sources)}", "Keep two.")
    if not shared["nuslerp_flatten"] or shared["nuslerp_row_wise"]:
        remedy = "Leave `nuslerp_flatten` true and `nuslerp_row_wise` false."
        reading.refuse("parameters", "ask for an angle by row; here a tensor has one", remedy)
    return {"method": "nuslerp" if reading.values.get("base_model") is None else "nuslerp_deltas"}


def _translate_types(reading: RecipeReading) -> dict[str, Any]:
    """The type that operands are rounded to, and the stored one, where the recipe names them."""
    computed, dtype = _choose_dtypes(reading)
    return ({"dtype": dtype} if dtype else {}) | (
        {"operand_dtype": computed} if computed not in (None, "float32") else {}
    )


def _translate_files(reading: RecipeReading) -> dict[str, Any]:
    """Keys of `merge` that touch no weight, and the seed."""
    template, seed = reading.values.get("chat_template"), reading.values.get("random_seed")
    if template is not None and (not isinstance(template, str) or (template != "auto" and "{" not in template)):
        found = f"is {template!r}, a template that mergekit brings along"
        reading.refuse("chat_template", found, "Write `auto`, or the template itself.")
    if seed is not None and (type(seed) is not int or seed < 0):
        reading.refuse("random_seed", f"expected a whole number from 0, found {seed!r}", "Correct it.")
    found_keys = {"chat_template": template, "seed": seed}
    if _unites(reading):
        tokenizer = reading.values.get("tokenizer")
        multiple = tokenizer.get("pad_to_multiple_of") if isinstance(tokenizer, dict) else None
        found_keys |= {"vocabulary": "union", "vocabulary_multiple": multiple}
    return {key: value for key, value in found_keys.items() if value is not None}


def _unites(reading: RecipeReading) -> bool:
    tokenizer = reading.values.get("tokenizer")
    nested = tokenizer.get("source", "union") if isinstance(tokenizer, dict) else None
    return "union" in (nested, reading.values.get("tokenizer_source"))


def _find_common_density(sources: list[RecipeSource]) -> dict[str, float]:
    """The one density of all models as an option; nothing where they differ, or where one depends on the place."""
    densities = {source.density for source in sources}
    one = densities.pop() if len(densities) == 1 else ()
    return {} if isinstance(one, tuple) else {"density": one}


def _list_exclusions(method: str, sources: list[RecipeSource]) -> list[str]:
    """Parts of names whose weight is 0 in every vector: those tensors keep the base's values."""
    filter_sets = {source.weight.zero_for for source in sources if source.weight.value != 0 or source.weight.zero_for}
    if method == "linear" or len(filter_sets) != 1:
        return []
    return [write_pattern(filter_) for filter_ in filter_sets.pop()]


def _choose_dtypes(reading: RecipeReading) -> tuple[str | None, str | None]:
    """The type that mergekit computes in, which operands are rounded to, and the stored type of the result."""
    given = {key: reading.values[key] for key in ("dtype", "out_dtype") if reading.values.get(key) is not None}
    names = {key: str(value).removeprefix("torch.") for key, value in given.items()}
    for key in (key for key, name in names.items() if name not in DTYPES):
        found = f"expected one of {', '.join(DTYPES)}, found {given[key]!r}"
        reading.refuse(key, found, "Arithmetic is float32 here.")
    return names.get("dtype"), names.get("out_dtype", names.get("dtype"))


def _find_tokenizer_model(reading: RecipeReading, base: str | None) -> str | None:
    """The model whose tokenizer the result takes, where that is not the base."""
    place, source = "tokenizer_source", reading.values.get("tokenizer_source")
    tokenizer = reading.values.get("tokenizer")
    if tokenizer is not None:
        place = "tokenizer"
        known = {"source", "pad_to_multiple_of"} if _unites(reading) else {"source"}
        if not isinstance(tokenizer, dict) or set(tokenizer) - known or source is not None:
            reading.refuse(place, "sets more than the source", "Write `tokenizer_source: base`, or name a model.")
            return None
        source = tokenizer.get("source", "union")

    if source in (None, "base", "union"):
        return None
    model = reading.attempt(lambda: parse_reference(source, where=f"{reading.where}: {place}"))
    return None if model == base else model


def _translate_vectors(
    reading: RecipeReading, method: str, sources: list[RecipeSource], base: str | None, instruction: str | None
) -> dict[str, Any]:
    """The section `vectors`; a base of weight 0 in `linear` gives its configuration and nothing else."""
    operands = [source for source in sources if source.model != base or source.weight.value != 0]
    names = name_vectors([source.model for source in operands])
    if instruction is not None and instruction not in [source.model for source in operands]:
        reading.refuse("tokenizer_source", f"'{instruction}' is no model of the recipe", "Write `base`, or name one.")

    common, excluded = bool(_find_common_density(operands)), bool(_list_exclusions(method, operands))
    vectors: dict[str, dict[str, Any]] = {}
    for name, source in zip(names, operands, strict=True):
        weight = source.weight.value if excluded else source.weight.placed
        vectors[name] = {"model": source.model, "weight": dump_weight(weight)}
        if not common:
            vectors[name]["density"] = dump_weight(source.density)
        if source.model == instruction:
            vectors[name]["role"] = "instruction"
    return vectors
