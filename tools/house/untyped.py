"""Mappings from strings to anything, where a record has its own class."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from .measure import Measure
from .source import SourceFile, is_docstring

MAPPINGS = frozenset({"dict", "Dict", "Mapping", "MutableMapping"})
QUOTED = re.compile(r"\b(?:dict|Dict|Mapping|MutableMapping)\[str, ?(?:Any|object)\]")


def measure_untyped(files: Sequence[SourceFile], *folders: str) -> Measure:
    """Uses of `dict[str, Any]` and its like in the folders, and uses of names that stand for them."""
    aliases = find_aliases(files)
    inside = [file for file in files if file.path.partition("/")[0] in folders]
    places = tuple(place for file in inside for place in find_untyped(file, aliases))
    title = " and ".join(f"{folder}/" for folder in folders)
    goal = "<= 20" if folders == ("jobs",) else "<= 10"
    return Measure(f"untyped_{'_'.join(folders)}", f"dict[str, Any] in {title}", len(places), goal=goal, places=places)


def find_untyped(file: SourceFile, aliases: frozenset[str]) -> Iterator[str]:
    names = known_names(file, aliases)
    docstrings = {id(node.value) for node in file.nodes if isinstance(node, ast.Expr) and is_docstring(node)}
    for node in file.nodes:
        if isinstance(node, ast.expr) and (is_untyped(node) or is_use(node, names)):
            yield file.place(node.lineno, ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from (file.place(node.lineno, match) for match in QUOTED.findall(node.value))


def is_untyped(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2):
        return False
    key, value = map(last_name, node.slice.elts)
    return last_name(node.value) in MAPPINGS and key == "str" and value in {"Any", "object"}


def last_name(node: ast.AST) -> str:
    """Name without the modules before it: `Any` of `typing.Any`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_use(node: ast.AST, names: frozenset[str]) -> bool:
    """True for a name, or for `module.name`, that is read and is one of `names`."""
    if not (names and isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)):
        return False
    return ast.unparse(node) in names


def find_aliases(files: Sequence[SourceFile]) -> frozenset[str]:
    """Full names of the type aliases that hold an untyped mapping, directly or by another alias."""
    aliases: frozenset[str] = frozenset()
    while True:
        longer = aliases.union(*(find_file_aliases(file, aliases) for file in files))
        if longer == aliases:
            return aliases
        aliases = longer


def find_file_aliases(file: SourceFile, aliases: frozenset[str]) -> frozenset[str]:
    """Full names of the aliases that one file defines or hands on, where `aliases` are known already."""
    names = known_names(file, aliases)
    defined = {
        name
        for name, value in alias_assignments(file.tree)
        if any(is_untyped(node) or is_use(node, names) for node in ast.walk(value))
    }
    handed_on = {name for name in names if "." not in name}
    return frozenset(f"{file.module_name}.{name}" for name in defined | handed_on)


def alias_assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Assignments of a module that can name a type: `A = B[C]`, `A: TypeAlias = B | C`, `type A = B`, `NewType`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target: ast.expr = node.targets[0]
            value = node.value
        elif isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation) and node.value:
            target, value = node.target, node.value
        elif type(node).__name__ == "TypeAlias":
            target, value = node.name, node.value  # type: ignore[attr-defined]
        else:
            continue

        makes_type = isinstance(value, ast.Call) and ast.unparse(value.func).endswith("NewType")
        if isinstance(target, ast.Name) and (makes_type or isinstance(value, ast.Subscript | ast.BinOp | ast.Name)):
            yield target.id, value


def known_names(file: SourceFile, aliases: frozenset[str]) -> frozenset[str]:
    """Names under which the aliases are known in a file: its own, imported ones, and those of imported modules."""
    if not aliases:
        return frozenset()

    known = {alias.removeprefix(f"{file.module_name}.") for alias in aliases}
    names = {name for name in known if "." not in name}
    for node in file.imports:
        for part in node.names:
            full, local = f"{node.module}.{part.name}", part.asname or part.name
            names |= {local} if full in aliases else set()
            names |= {f"{local}.{alias.rpartition('.')[2]}" for alias in aliases if alias.rpartition(".")[0] == full}

    return frozenset(names)
