"""Comparison of what two sides left of a scenario."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from .volatile import null_name, null_volatile

DIFF_LINES = 14
NOTE = ".scenario"
"""File beside what a side left that tells whose it is."""
LINE_CHARACTERS = 220


@dataclass(frozen=True)
class FileDifference:
    """A file in which two sides differ, and how."""

    name: str
    lines: tuple[str, ...]


def compare_folders(old: Path, new: Path) -> list[FileDifference]:
    """Return every file that is not the same on both sides, in order of name; the note on whose they are is none."""
    files_old, files_new = (list_files(folder) for folder in (old, new))
    differences = []
    for name in sorted(files_old.keys() | files_new.keys()):
        if name not in files_new or name not in files_old:
            side = "OLD" if name in files_old else "NEW"
            differences.append(FileDifference(name, (f"only {side} has it",)))
        elif lines := compare_files(name, files_old[name].read_bytes(), files_new[name].read_bytes()):
            differences.append(FileDifference(name, lines))
    return differences


def list_files(folder: Path) -> dict[str, Path]:
    """Return all files and links below `folder`, and folders that are empty, by name."""
    found = {}
    for path in folder.rglob("*"):
        name = null_name(path.relative_to(folder).as_posix())
        if path.is_file() and name != NOTE:
            found[name] = path
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = Path("/dev/null")
    return found


def compare_files(name: str, old: bytes, new: bytes) -> tuple[str, ...]:
    """Return the first lines of the difference of two contents of the file `name`; none where they are the same."""
    if old == new:
        return ()
    try:
        texts = [null_volatile(name, content.decode()) for content in (old, new)]
    except UnicodeDecodeError:
        return (*describe_bytes(old, new), *describe_tensors(name, old, new))
    if texts[0] == texts[1]:
        return ()

    old_lines, new_lines = (text.splitlines() for text in texts)
    lines = difflib.unified_diff(old_lines, new_lines, "OLD", "NEW", n=1, lineterm="")
    shown = [line[:LINE_CHARACTERS] for line in lines]
    more = [f"... {len(shown) - DIFF_LINES} more lines"] if len(shown) > DIFF_LINES else []
    return (*shown[:DIFF_LINES], *more) or ("line ends differ",)


def describe_bytes(old: bytes, new: bytes) -> tuple[str, ...]:
    """Return where two binary contents part."""
    place = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return (f"bytes differ from byte {place} on; OLD has {len(old)} bytes, NEW {len(new)}",)


def describe_tensors(name: str, old: bytes, new: bytes) -> tuple[str, ...]:
    """Return which tensors of two safetensors files differ."""
    if not name.endswith(".safetensors"):
        return ()
    try:
        tables = [read_tensors(content) for content in (old, new)]
    except (ValueError, KeyError):
        return ()
    names = [key for key in tables[0].keys() | tables[1].keys() if tables[0].get(key) != tables[1].get(key)]
    return (f"{len(names)} tensors differ, first {min(names)}",) if names else ()


def read_tensors(content: bytes) -> dict[str, tuple[str, bytes]]:
    """Return the description and the bytes of each tensor of a safetensors file, and its notes."""
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, about in json.loads(content[8:start]).items():
        low, high = about.pop("data_offsets", (0, 0))
        tensors[name] = (json.dumps(about, sort_keys=True), content[start + low : start + high])
    return tensors
