"""The rename list: its rows, read from one file or from every `*.txt` of a folder in sorted order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("module", "move", "name", "member", "local", "param", "word")


class RowError(Exception):
    """A row of the rename list that cannot be read or applied."""


@dataclass(frozen=True)
class Row:
    """One row: what it renames (in names of the old tree) and the new name."""

    kind: str
    module: str
    path: str
    new: str
    place: str

    @property
    def old(self) -> str:
        """The bare old name."""
        return self.path.rpartition(".")[2] if self.path else self.module

    @property
    def owner(self) -> str:
        """The qualified name of the class or function around the renamed name."""
        return self.path.rpartition(".")[0]

    def __str__(self) -> str:
        left = f"{self.module}:{self.path}" if self.module and self.path else self.module or self.path
        return f"{self.place}: {self.kind} {left} {self.new}"


@dataclass
class Rows:
    """All rows, with where modules and definitions of the old tree lie now."""

    rows: list[Row]
    modules: dict[str, str] = field(default_factory=dict)
    moves: dict[tuple[str, str], str] = field(default_factory=dict)
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    members: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if row.kind == "module":
                self.modules[row.module] = row.new
            elif row.kind == "move":
                self.moves[row.module, row.path] = row.new
            elif row.kind == "name":
                self.names[row.module, row.path] = row.new
            elif row.kind == "member":
                self.members[row.module, row.owner, row.old] = row.new

    def of(self, *kinds: str) -> list[Row]:
        """The rows of these kinds."""
        return [row for row in self.rows if row.kind in kinds]

    def find_module(self, module: str, path: str = "") -> str:
        """Module of the present tree that holds this definition of the old tree."""
        top = path.partition(".")[0]
        return self.moves.get((module, top), self.modules.get(module, module))

    def rename_path(self, module: str, path: str) -> str:
        """The path of a definition once every `name` and `member` row has been applied."""
        parts = path.split(".") if path else []
        new: list[str] = []

        for depth, part in enumerate(parts):
            owner = ".".join(parts[:depth])
            if depth == 0:
                new.append(self.names.get((module, part), part))
            else:
                new.append(self.members.get((module, owner, part), part))
        return ".".join(new)


def list_files(paths: list[Path]) -> list[Path]:
    """The files of rows that these files and folders hold."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.txt")) if path.is_dir() else [path]
    return files


def read_rows(paths: list[Path]) -> Rows:
    """All rows of these files and folders; two rows that contradict each other are an error."""
    rows: list[Row] = []
    seen: dict[tuple[str, str, str], Row] = {}

    for file in list_files(paths):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            parts = line.partition("#")[0].split()
            if not parts:
                continue
            row = _parse_row(parts, f"{file.name}:{number}")
            kind = "local" if row.kind == "param" else row.kind
            earlier = seen.setdefault((kind, row.module, row.path), row)
            if earlier.new != row.new:
                raise RowError(f"{row}: {earlier.place} gives it another new name, {earlier.new}. Remove one.")
            if earlier is row:
                rows.append(row)
    return Rows(rows)


def _parse_row(parts: list[str], place: str) -> Row:
    if len(parts) != 3 or parts[0] not in KINDS:
        raise RowError(f"{place}: expected KIND OLD NEW with a kind of {', '.join(KINDS)}, found {' '.join(parts)}")
    kind, left, new = parts
    if kind == "module":
        return Row(kind, left, "", new, place)
    if kind == "word":
        _check_identifier(left, place)
        _check_identifier(new, place)
        return Row(kind, "", left, new, place)

    module, colon, path = left.partition(":")
    if not colon or not path:
        raise RowError(f"{place}: expected module:name on the left, found {left}")
    if kind in {"member", "local", "param"} and "." not in path:
        raise RowError(f"{place}: expected module:owner.name on the left of a {kind} row, found {left}")
    if kind == "name" and "." in path:
        raise RowError(f"{place}: a name row is for module level, found {left}; a nested class is a member")
    if kind != "move":
        _check_identifier(new, place)
    return Row(kind, module, path, new, place)


def _check_identifier(name: str, place: str) -> None:
    if not name.isidentifier():
        raise RowError(f"{place}: expected an identifier, found {name}")
