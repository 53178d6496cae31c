"""Keyword arguments as sections of the file: `tasks=..., trials=...` are what `evaluate.tasks` and `search.trials` are.

A key belongs to the first of a function's sections that has it; a section is also taken whole, by its own name, and
counts before single keys of it. Values are those of the YAML file, and are checked as the file is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aftermix.config import Config, as_yaml_values, load_config, parse_config
from aftermix.config.file import list_fields
from aftermix.config.places import GivenWeight
from aftermix.errors import ConfigError, Problem, ask_meant, find_meant, join_place, refuse_if_any

WHERE = "arguments"
RIVALS = "compare"
IN_FILE = {("merge", "scale"): "lambda"}
"""Keys of the file that no keyword can be called, by section and the keyword that stands for them."""
Ranges = Mapping[str, tuple[float, float] | Sequence[Mapping[str, Any]]]
"""Least and greatest merge weight by vector, or the rules of its range."""


def open_config(source: Config | str | Path) -> Config:
    """The configuration itself, or that of the file at a path."""
    return source if isinstance(source, Config) else load_config(Path(source))


def extend_config(
    config: Config,
    options: Mapping[str, Any],
    *,
    sections: Sequence[str],
    ranges: Ranges | None = None,
    weights: Mapping[str, GivenWeight] | None = None,
) -> Config:
    """`config` with `options` placed into `sections`, and with ranges or merge weights of its vectors.

    A vector that `weights` does not name weighs 0, and no range binds what is given. `compare`, whose keys are names of
    the user's, is taken whole by a search and a mixture. Relative paths in the options start at the working directory.
    Raises :class:`ConfigError` or :class:`ManyProblemsError` for keys, vectors and
    values that do not fit.
    """
    if not options and ranges is None and weights is None:
        return config
    values = as_yaml_values(config)
    if "search" in sections and RIVALS in options:
        values[RIVALS] = {**values.get(RIVALS, {}), **options[RIVALS]}
        options = {key: value for key, value in options.items() if key != RIVALS}
    placed = place_options(options, sections)
    for section, keys in placed.items():
        values[section] = {**_strip_unset(config, section, values), **_name_as_in_file(section, keys)}

    names = {"ranges": ranges, "weights": weights}
    refuse_if_any([problem for word, given in names.items() for problem in _find_strangers(word, given, config)])
    for name, vector in values.get("vectors", {}).items():
        if ranges is not None and name in ranges:
            vector["range"] = list(ranges[name])
        if weights is not None:
            vector.pop("range", None)
            vector["weight"] = weights.get(name, 0.0)
    return parse_config(values, where=WHERE, folder=Path.cwd())


def place_options(options: Mapping[str, Any], sections: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Section -> keys, of options that are keys of one of `sections`, or a whole section.

    Raises :class:`ConfigError` for a key of none.

    >>> place_options({"tasks": ["gsm8k"], "trials": 20}, ["search", "evaluate"])
    {'evaluate': {'tasks': ['gsm8k']}, 'search': {'trials': 20}}
    """
    placed: dict[str, dict[str, Any]] = {}
    fields = {section: list_fields((section,)) for section in sections}
    problems = []
    for key, value in options.items():
        section = next((each for each in sections if IN_FILE.get((each, key), key) in fields[each]), None)
        if key in sections and isinstance(value, Mapping):
            placed[key] = {**value, **placed.get(key, {})}
        elif section is not None:
            placed.setdefault(section, {})[IN_FILE.get((section, key), key)] = value
        else:
            problems.append(_explain_unknown(key, fields))
    refuse_if_any(problems)
    return placed


def _name_as_in_file(section: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys as the file has them: `lambda` is a word of Python, whose keyword is `scale`."""
    return {IN_FILE.get((section, key), key): value for key, value in keys.items()}


def _explain_unknown(key: str, fields: Mapping[str, Sequence[str]]) -> Problem:
    known = [*fields, *(name for names in fields.values() for name in names)]
    meant = find_meant(key, known)
    question = f"Did you mean `{meant}`? " if meant else ""
    sections = " or ".join(f"`{section}`" for section in fields)
    return Problem(WHERE, f"`{key}` is no key of {sections}", f"{question}See docs/configuration.md.")


def _find_strangers(word: str, given: Mapping[str, Any] | None, config: Config) -> list[Problem]:
    """Vectors that are given something and do not exist."""
    return [
        Problem(
            word,
            f"expected vectors of the pool ({', '.join(config.vectors)}), found '{name}'",
            ask_meant("Correct the name.", name, config.vectors),
        )
        for name in given or {}
        if name not in config.vectors
    ]


def _strip_unset(config: Config, section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a section that the file itself has: defaults that nobody wrote may depend on what is given now."""
    model = getattr(config, section)
    if model is None:
        return {}
    written = values.get(section, {})
    chosen = {
        type(model).model_fields[name].alias or name for name in model.model_fields_set & set(type(model).model_fields)
    }
    extra = set(model.model_extra or {})
    return {key: value for key, value in written.items() if key in chosen | extra}


def build_pool_config(base: str | Path | None, vectors: Mapping[str, Any], options: Mapping[str, Any]) -> Config:
    """The configuration of a base and vectors: each a folder, a hub name, or a mapping as in the file.

    Raises :class:`ConfigError` for a value that is none of these, and whatever the file's check finds.
    """
    entries: dict[str, Any] = {}
    for name, given in vectors.items():
        if isinstance(given, str | Path):
            entries[name] = {"model": str(given)}
        elif isinstance(given, Mapping):
            entries[name] = {**given, "model": str(given["model"])} if "model" in given else dict(given)
        else:
            found = f"expected a path, a hub name or a mapping with `model`, found {type(given).__name__}"
            raise ConfigError(join_place("vectors", name), found, "Name the folder of the expert.")
    values: dict[str, Any] = {"vectors": entries, **options}
    if base is not None:
        values["base"] = str(base)
    return parse_config(values, where=WHERE, folder=Path.cwd())
