"""Searched settings put into a file: the configuration that makes the merge of one point of a search again."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from aftermix.config import Config, MergeConfig
from aftermix.merging.methods import INTER, INTRA, BoundMethod
from aftermix.runs.trials import Setting

SCALE = "lambda"
TABLES: dict[str, Mapping[str, Any]] = {"intra": INTRA, "inter": INTER}
DEFAULTS = {"intra": "all", "inter": "sum"}
"""Rules of an unnamed pair by key of `merge`, and those that hold where the file names only the other."""


def apply_settings(config: Config, settings: Mapping[str, Setting]) -> Config:
    """`config` with `settings` in place of its own.

    `option.vector` is a vector's own `ratio` or `density`; anything else is an option of the method, or `lambda`.
    """
    merge: dict[str, Setting] = {}
    vectors = dict(config.vectors)
    for name, value in settings.items():
        option, _, vector = name.partition(".")
        if vector:
            vectors[vector] = vectors[vector].model_copy(update={option: value})
        else:
            merge[option] = value

    merged = _apply_options(config.merge, merge) if merge else config.merge
    return config.model_copy(update={"vectors": vectors, "merge": merged})


def leaves_vectors_as_they_are(method: BoundMethod, names: Iterable[str]) -> bool:
    """True when the settings called `names` decide nothing but how prepared vectors are combined."""
    surveyed = getattr(method.survey_rule, "keywords", {})
    before = {**inspect.signature(method.rules[0]).parameters, **surveyed}
    after = {} if method.is_exclusive else inspect.signature(method.rules[1]).parameters
    return all(name == SCALE or (name in after and name not in before) for name in names)


def _apply_options(merge: MergeConfig, options: Mapping[str, Setting]) -> MergeConfig:
    values = merge.model_dump(by_alias=True, exclude_none=True)
    for option, value in options.items():
        rule = None if option == SCALE else _find_rule(values, option)
        if rule is None:
            values[option] = value
        else:
            values[rule] = _normalise_rule(values.get(rule, {"rule": DEFAULTS[rule]})) | {option: value}
    return MergeConfig.model_validate(values)


def _find_rule(values: Mapping[str, Any], option: str) -> str | None:
    """Of an unnamed pair, the rule that takes `option`, or else the intra rule; None where a method is named."""
    if not TABLES.keys() & values.keys():
        return None

    for key, table in TABLES.items():
        function = table.get(str(_normalise_rule(values.get(key, DEFAULTS[key])).get("rule")))
        if function is not None and option in inspect.signature(function).parameters:
            return key
    return "intra"


def _normalise_rule(rule: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"rule": rule} if isinstance(rule, str) else dict(rule)
