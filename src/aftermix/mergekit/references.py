"""References to models as mergekit writes them, and names of the vectors that are made from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, count
from pathlib import PurePath
from typing import Any

from aftermix.checkpoints.hub import name_cached_repository
from aftermix.errors import ConfigError

NAME_LENGTH = 64


def parse_reference(value: Any, *, where: str, base: str | None = None) -> str:
    """Folder or hub name in a reference of mergekit: `NAME`, or `{model: {path: NAME}}`.

    `BASE+ADAPTER` is the adapter when BASE is `base`: an adapter is a vector of its own here. Raises
    :class:`ConfigError` for an adapter of another model, a revision, and an overridden architecture.
    """
    model, adapter = _split_reference(value, where)
    if adapter is None:
        return model
    if model != base:
        found = f"'{model}+{adapter}' is an adapter of a model that is not `base_model`"
        raise ConfigError(where, found, "Merge the adapter into its model, and name the result.")
    return adapter


def _split_reference(value: Any, where: str) -> tuple[str, str | None]:
    """Model and adapter of one reference."""
    if isinstance(value, str):
        model, *adapters = value.split("+")
        if len(adapters) > 1:
            raise ConfigError(
                where, f"'{value}' has more than one '+'", "Write MODEL+ADAPTER, or {model: {path: ...}}."
            )
        return _read_path(model, where), _read_path(adapters[0], where) if adapters else None

    if not isinstance(value, dict) or "model" not in value:
        found = f"expected the name of a model, found {type(value).__name__}"
        raise ConfigError(where, found, "Name a folder or a hub model.")
    unknown = sorted(set(value) - {"model", "lora", "override_architecture"})
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}", "is not a known key", "A model takes: model, lora.")
    if value.get("override_architecture") is not None:
        remedy = "Remove it: names and shapes of the tensors decide here."
        raise ConfigError(f"{where}.override_architecture", "is not supported", remedy)

    model = _read_path(value["model"], f"{where}.model")
    return model, None if value.get("lora") is None else _read_path(value["lora"], f"{where}.lora")


def _read_path(value: Any, where: str) -> str:
    """The path in `PATH`, `{path: PATH}`; a revision is refused, since none is taken here."""
    revision = None
    if isinstance(value, dict) and set(value) <= {"path", "revision"}:
        value, revision = value.get("path"), value.get("revision")
    elif isinstance(value, str) and "@" in value:
        value, revision = value.split("@", 1)
    if not isinstance(value, str) or not value:
        raise ConfigError(where, f"expected a path or hub name, found {value!r}", "Name a folder or a hub model.")
    if revision is not None:
        remedy = "Download that revision into a folder, and name the folder."
        raise ConfigError(where, f"'{value}' is wanted at revision '{revision}'", remedy)
    return value


def write_reference(model: str, *, adapted: str | None = None) -> str | dict[str, Any]:
    """The reference that mergekit reads as exactly this path, or as the adapter `model` of the model `adapted`.

    It is spelled out where mergekit would take `+` or `@` apart.

    >>> write_reference("models/ja"), write_reference("adapters/ja", adapted="models/base")
    ('models/ja', 'models/base+adapters/ja')
    >>> write_reference("models/a+b")
    {'model': {'path': 'models/a+b'}}
    """
    whole, adapter = adapted or model, {} if adapted is None else {"lora": {"path": model}}
    if re.search("[+@]", model + whole):
        return {"model": {"path": whole}} | adapter
    return f"{whole}+{model}" if adapter else model


def name_vectors(models: Sequence[str]) -> list[str]:
    """A name for each of `models`, distinct and short: the last part of the path, with its parent where two share it.

    >>> name_vectors(["experts/ja", "org/math-7b", "runs/a/final", "runs/b/final"])
    ['ja', 'math-7b', 'a-final', 'b-final']
    """
    last = [_shorten_path(model, parts=1) for model in models]
    names: list[str] = []
    for model, short in zip(models, last, strict=True):
        longer = _shorten_path(model, parts=2)
        numbered = (f"{longer[: NAME_LENGTH - 4]}-{number}" for number in count(2))
        wanted = chain([short] if last.count(short) == 1 else [], [longer], numbered)
        names.append(next(name for name in wanted if name not in names))
    return names


def _shorten_path(model: str, *, parts: int) -> str:
    model = name_cached_repository(model) or model
    words = [part for part in PurePath(model).parts if part not in ("/", ".", "..", "~")][-parts:]
    plain = re.sub(r"[^A-Za-z0-9_.\-]", "-", "-".join(words))
    return re.sub(r"^[^A-Za-z0-9]+", "", plain)[:NAME_LENGTH] or "model"
