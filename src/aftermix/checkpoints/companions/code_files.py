"""Python files that a model needs to be loaded: those that `auto_map` names, and what these import from beside them.

They are read as text, and copied as bytes. Nothing of them is run.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftermix.checkpoints.safe_files import MAX_JSON_BYTES, holds_file, read_entry
from aftermix.errors import CheckpointError

AUTO_MAP = "auto_map"
REPOSITORY = "--"
"""Between the name of another repository and that of a module in it."""
MODEL_SETTINGS = ("config.json",)
TOKENIZER_SETTINGS = (
    *("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"),
    *("image_processor_config.json", "video_preprocessor_config.json", "feature_extractor_config.json"),
)
MAX_CODE_BYTES = 8 << 20


def list_code_files(folder: Path, settings: tuple[str, ...]) -> list[str]:
    """Names of the Python files in `folder` that the `auto_map` of one of the files `settings` needs, in order."""
    needed: set[str] = set()
    waiting = [f"{module}.py" for name in settings for module in _list_modules(_read_object(folder / name))]
    while waiting:
        name = waiting.pop()
        if name in needed or not holds_file(folder / name):
            continue
        needed.add(name)
        waiting += [f"{module}.py" for module in _list_relative_imports(folder / name)]
    return sorted(needed)


def names_own_code(folder: Path) -> bool:
    """Tell whether a file of settings in `folder` names Python files beside it."""
    return any(_list_modules(_read_object(folder / name)) for name in (*MODEL_SETTINGS, *TOKENIZER_SETTINGS))


def _list_modules(settings: dict[str, Any]) -> list[str]:
    """Modules that `auto_map` names: `module.Class`, or a pair of these; not those of other repositories."""
    entries = settings.get(AUTO_MAP)
    values = list(entries.values()) if isinstance(entries, dict) else []
    references = [part for value in values for part in (value if isinstance(value, list) else [value])]
    named = [text for text in references if isinstance(text, str) and REPOSITORY not in text and "." in text]
    return [module for text in named if (module := text.rpartition(".")[0]).isidentifier()]


def _list_relative_imports(file: Path) -> Iterator[str]:
    """Modules beside `file` that it imports; none of a file that is no Python."""
    try:
        content = read_entry(file, folder=file.parent, remedy="", max_bytes=MAX_CODE_BYTES)
        nodes = list(ast.walk(ast.parse(content)))
    except (CheckpointError, OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names]


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; an empty one where there is none, which is told where the file is needed."""
    if not holds_file(path):
        return {}
    try:
        value = json.loads(read_entry(path, folder=path.parent, remedy="", max_bytes=MAX_JSON_BYTES))
    except (CheckpointError, OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
