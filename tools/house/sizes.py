"""Sizes of folders, files and functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from .measure import Measure
from .source import SourceFile, last_line

FOLDER_LIMIT = 12
FUNCTION_LIMIT = 40
FILE_LIMIT = 400


def measure_folders(files: Sequence[SourceFile]) -> tuple[Measure, Measure]:
    """The fullest folder, and the folders above the limit; an `__init__.py` is not counted."""
    paths = [PurePosixPath(file.path) for file in files]
    counts = Counter(str(path.parent) for path in paths if path.name != "__init__.py")
    full = [f"{folder}: {count}" for folder, count in counts.most_common() if count > FOLDER_LIMIT]
    return (
        Measure(
            "fullest_folder", "most files in one folder", max(counts.values(), default=0), goal=f"<= {FOLDER_LIMIT}"
        ),
        Measure("full_folders", f"folders above {FOLDER_LIMIT} files", len(full), goal="0", places=tuple(full)),
    )


def measure_long_functions(files: Sequence[SourceFile]) -> Measure:
    """Functions with more lines than the limit, from `def` to the end, docstring and all."""
    long: list[str] = []
    for file in files:
        for node in file.functions:
            length = last_line(node) - node.lineno + 1
            if length > FUNCTION_LIMIT:
                long.append(f"{file.place(node.lineno, node.name)}: {length}")

    return Measure("long_functions", f"functions over {FUNCTION_LIMIT} lines", len(long), places=tuple(long))


def measure_long_files(files: Sequence[SourceFile]) -> Measure:
    lengths = {file.path: len(file.lines) for file in files}
    long = tuple(f"{path}: {length}" for path, length in lengths.items() if length > FILE_LIMIT)
    return Measure("long_files", f"files over {FILE_LIMIT} lines", len(long), goal="0", places=long)
