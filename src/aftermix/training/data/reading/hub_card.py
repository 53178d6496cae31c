"""Configurations and splits that the card of a Hub dataset (README.md) gives its files."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aftermix.errors import TrainingError

CARD_FILE = "README.md"
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*$", re.DOTALL | re.MULTILINE)
MAX_BYTES = 1 << 20
DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class CardConfiguration:
    """One configuration of a card: its files by split, as patterns below the dataset's folder."""

    name: str
    patterns: Mapping[str, Sequence[str]]
    is_default: bool

    def label_files(self, root: Path) -> dict[Path, str]:
        """The split of each file below `root` that the card names."""
        labels: dict[Path, str] = {}
        for split, patterns in self.patterns.items():
            for pattern in patterns:
                for match in glob.glob(str(Path(glob.escape(str(root))) / pattern), recursive=True):  # noqa: PTH207
                    labels.setdefault(Path(match), split)
        return labels


def read_configuration(root: Path) -> CardConfiguration | None:
    """The configuration that the card in the folder `root` gives its files; None where there is no card that does.

    Raises :class:`TrainingError` for several of which none is the default: they may hold the same documents twice.
    """
    configurations = list(_read_configurations(root))
    if not configurations:
        return None

    default = [each for each in configurations if each.is_default] or configurations
    if len(default) == 1:
        return default[0]

    first = next((pattern for each in default for listed in each.patterns.values() for pattern in listed), "FOLDER/*")
    names = ", ".join(each.name for each in default)
    found = f"its card names several configurations, none of them the default: {names}"
    raise TrainingError(str(root), found, f"Name the files of one by a pattern, such as `{root / first}`.")


def _read_configurations(root: Path) -> Sequence[CardConfiguration]:
    listed = _read_front_matter(root / CARD_FILE).get("configs")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    found = [
        CardConfiguration(
            str(entry.get("config_name", "default")),
            _read_patterns(entry.get("data_files")),
            bool(entry.get("default")) or entry.get("config_name") == "default",
        )
        for entry in entries
    ]
    return [each for each in found if each.patterns]


def _read_front_matter(card: Path) -> Mapping[str, Any]:
    """The YAML at the head of a card; empty where there is none. What is wrong in a card is no fault of the data."""
    try:
        if card.stat().st_size > MAX_BYTES:
            return {}
        head = FRONT_MATTER.match(card.read_text(encoding="utf-8"))
        values = yaml.safe_load(head[1]) if head else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _read_patterns(data_files: Any) -> dict[str, list[str]]:
    """Patterns by split, of each of the forms that the Hub takes: a path, paths, entries of `split` and `path`."""
    if isinstance(data_files, dict):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]

    entries = data_files if isinstance(data_files, list) else [data_files]
    patterns: dict[str, list[str]] = {}
    for entry in entries:
        split, paths = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else (DEFAULT_SPLIT, entry)
        texts = [path for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str) and path]
        if texts:
            patterns.setdefault(str(split or DEFAULT_SPLIT), []).extend(texts)
    return patterns
