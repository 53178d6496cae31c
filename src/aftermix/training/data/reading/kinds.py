"""Kinds of data files, told by their names, and files that stand beside data without being any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from aftermix.errors import TrainingError

JSON_LINES = (".jsonl", ".ndjson", ".json")
NOT_READ = (".arrow", ".csv", ".tsv", ".zst", ".xz", ".bz2", ".zip", ".7z", ".bin", ".npy")
SUFFIXES = {"JSON lines": "jsonl", "parquet": "parquet"}

CARD = re.compile(
    r"(readme|licen[cs]e)([-_.].*)?|(copying|notice|citation|changelog|contributing|code_of_conduct)(\.\w+)?",
    re.IGNORECASE,
)
DESCRIPTIONS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""Files by which `datasets` describes data."""


def find_suffix(path: Path) -> str:
    """The last suffix of the name, `.gz` aside, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def find_kind(part: Path) -> str:
    """Kind of a file, or of a folder written by `save_to_disk`."""
    if part.is_dir():
        return "saved dataset"
    suffix = find_suffix(part)
    if suffix in JSON_LINES:
        return "JSON lines"
    return "parquet" if suffix == ".parquet" else "plain text"


def is_card(part: Path) -> bool:
    """True for what stands beside data, by its name: README.md, LICENSE, dataset_infos.json, _SUCCESS."""
    if part.name in DESCRIPTIONS:
        return True
    is_text = find_kind(part) == "plain text"
    return is_text and (part.name.startswith("_") or CARD.fullmatch(part.name) is not None)


def refuse_unread(part: Path) -> None:
    """Raise :class:`TrainingError` for a file of a kind that is not read."""
    if not (part.is_file() or part.is_dir()):
        raise TrainingError(str(part), "is not a file", "Name a data file or a folder of data files.")

    suffix = find_suffix(part)
    if part.is_file() and suffix in NOT_READ:
        found = f"expected JSONL, parquet, plain text or a saved dataset, found a {suffix} file"
        raise TrainingError(str(part), found, "Write it as JSON lines, one object with the text a line.")
    if suffix == ".parquet" and part.suffix.lower() == ".gz":
        raise TrainingError(str(part), "is a compressed parquet file", "Decompress it; parquet compresses by itself.")


def refuse_twins(path: Path, parts: Sequence[Path]) -> None:
    """Raise :class:`TrainingError` for files of one name in two forms, which most likely hold the same documents.

    These are `a.jsonl` and `a.jsonl.gz`, or `a.json` and `a.jsonl`. Texts of other suffixes are other documents.
    """
    first_of: dict[Path, Path] = {}
    for part in parts:
        bare = part.with_name(part.name[:-3]) if part.name.lower().endswith(".gz") else part
        name = bare.with_suffix("") if find_kind(part) == "JSON lines" else bare
        other = first_of.setdefault(name, part)
        if other != part:
            found = f"holds the same name in two forms: {other.name}, {part.name}"
            raise TrainingError(str(path), found, "Move one of them away, or name the files by a pattern.")


def refuse_mixed_kinds(path: Path, parts: Sequence[Path]) -> None:
    """Raise :class:`TrainingError` when `parts` of the folder or pattern `path` are of several kinds."""
    first_of: dict[str, Path] = {}
    for part in parts:
        first_of.setdefault(find_kind(part), part)
    if len(first_of) < 2:
        return

    found = ", ".join(f"{kind} ({part.name})" for kind, part in sorted(first_of.items()))
    suffix = next((SUFFIXES[kind] for kind in ("parquet", "JSON lines") if kind in first_of), "txt")
    folder = path if path.is_dir() else path.parent
    remedy = f"Name one kind by a pattern, such as `{folder}/**/*.{suffix}`, or move the others away."
    raise TrainingError(str(path), f"holds files of several kinds: {found}", remedy)
