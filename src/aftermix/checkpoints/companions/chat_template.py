"""The chat template that a recipe asks for, put into the files of a result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aftermix.checkpoints.safe_files import read_companion, read_json

TEMPLATE_FILE, TEMPLATE_JSON, SETTINGS = "chat_template.jinja", "chat_template.json", "tokenizer_config.json"
AUTO = "auto"


def choose_chat_template(wanted: str, folders: Iterable[Path]) -> str | None:
    """The template `wanted`; for `auto` the one that most models in `folders` have, the first of equals.

    None where `auto` finds none.
    """
    if wanted != AUTO:
        return wanted
    found = [template.strip() for folder in folders if (template := read_chat_template(folder))]
    return Counter(found).most_common(1)[0][0] if found else None


def read_chat_template(folder: Path) -> str | None:
    """The template of the model in `folder`: a file of its own, or an entry of the tokenizer's settings."""
    if (folder / TEMPLATE_FILE).is_file():
        return read_companion(folder / TEMPLATE_FILE, folder).decode("utf-8", errors="replace")
    for name in (SETTINGS, TEMPLATE_JSON):
        if (folder / name).is_file():
            template = _select_default(read_json(folder / name, remedy="Copy it again.").get("chat_template"))
            if template:
                return template
    return None


def _select_default(value: Any) -> str | None:
    """The template itself; of several, which have names, the one called `default`."""
    if isinstance(value, list):
        value = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) else None


def set_chat_template(files: dict[str, bytes], template: str) -> None:
    """Give the tokenizer among `files` this template in the place of any other; nothing where there is none."""
    if not any(name in files for name in (SETTINGS, "tokenizer.json")):
        return
    files.pop(TEMPLATE_JSON, None)
    files[TEMPLATE_FILE] = template.encode()
    settings = json.loads(files.get(SETTINGS, b"{}"))
    if settings.pop("chat_template", None) is not None:
        files[SETTINGS] = json.dumps(settings, indent=2, ensure_ascii=False).encode()
