"""Facts about the models of a first file: names, roles and tokens, from what is in their folders."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.model import Model, StoredDifference
from aftermix.checkpoints.open_model import open_model
from aftermix.config.fields import LONGEST_NAME
from aftermix.errors import AftermixError, Problem, refuse_if_any

INSTRUCTED = re.compile(r"(^|[-_.])(it|instruct|instruction|chat|sft)($|[-_.])", re.IGNORECASE)
"""Words in the name of a folder that say that a model follows instructions."""
INVALID = re.compile(r"[^A-Za-z0-9_.\-]+")


@dataclass(frozen=True)
class FoundModel:
    """One model of the command line."""

    name: str
    path: str
    """As the user named it."""
    model: Model
    role: str = "expert"
    role_reason: str = ""
    tokens: int | None = None
    """Tokens that the expert's own record says it was trained on."""


def find_models(base: str, experts: Sequence[str]) -> tuple[FoundModel, list[FoundModel]]:
    """The base and the experts, opened against it; no weights are read.

    Raises :class:`ManyProblemsError` with every model that cannot be opened.
    """
    opened_base = open_model(base)
    found, problems, names = [], list[Problem](), set[str]()
    for path in experts:
        try:
            model = open_model(path, base=opened_base)
        except AftermixError as error:
            problems += error.problems
            continue
        name = choose_name(path, base, names)
        names.add(name)
        found.append(_describe_model(name, path, model, opened_base))
    refuse_if_any(problems)
    return FoundModel(Path(base).name, base, opened_base), found


def choose_name(path: str, base: str, taken: set[str]) -> str:
    """A short name for the expert at `path`: its folder's, without the base's name before it, unlike those `taken`.

    >>> choose_name("out/Llama-3-8B-ja", "models/Llama-3-8B", set())
    'ja'
    >>> choose_name("experts/ja", "base", {"ja"})
    'ja-2'
    """
    folder, stem = Path(path).name, Path(base).name
    short = folder.removeprefix(stem).lstrip("-_. ") if folder != stem else folder
    name = INVALID.sub("-", short or folder).strip("-_.")[: LONGEST_NAME - 4] or "expert"
    number, chosen = 2, name
    while chosen in taken:
        chosen, number = f"{name}-{number}", number + 1
    return chosen


def _describe_model(name: str, path: str, model: Model, base: Model) -> FoundModel:
    tokens = _read_tokens(model.folder if not Path(path).is_dir() else Path(path))
    if INSTRUCTED.search(Path(path).name):
        return FoundModel(name, path, model, "instruction", "its name says so", tokens)

    talks = not isinstance(model, StoredDifference) and has_chat_template(model.folder)
    if tokens is None and talks and not has_chat_template(base.folder):
        return FoundModel(name, path, model, "instruction", "it has a chat template, and the base has none")
    return FoundModel(name, path, model, tokens=tokens)


def has_chat_template(folder: Path) -> bool:
    """True if the tokenizer in `folder` has a chat template, in a file of its own or among its settings."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return bool(_read_object(folder / "tokenizer_config.json").get("chat_template"))


def _read_tokens(folder: Path) -> int | None:
    tokens = _read_object(folder / TRAINING_FILE).get("tokens")
    return tokens if isinstance(tokens, int) and tokens > 0 else None


def _read_object(path: Path) -> dict[str, JsonValue]:
    """A JSON object beside a model, which only serves as a hint: empty where it is not there or no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
