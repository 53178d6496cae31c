"""Source of the package: its files, their trees and lines."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class SourceFile:
    """File of the package: its path from the package's folder, its text and its tree."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    @cached_property
    def white_lines(self) -> frozenset[int]:
        """Numbers of the lines that are blank or hold a comment alone; lines of a string are neither."""
        strings = {
            line
            for node in self.nodes
            if isinstance(node, ast.JoinedStr | ast.Constant) and last_line(node) > node.lineno
            for line in range(node.lineno, last_line(node) + 1)
        }
        lines = enumerate(self.lines, start=1)
        return frozenset(number for number, line in lines if line.strip()[:1] in {"", "#"} and number not in strings)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Function))

    @cached_property
    def imports(self) -> tuple[ast.ImportFrom, ...]:
        return tuple(node for node in self.nodes if isinstance(node, ast.ImportFrom))

    @cached_property
    def classes(self) -> tuple[ast.ClassDef, ...]:
        return tuple(node for node in self.nodes if isinstance(node, ast.ClassDef))

    @property
    def module_name(self) -> str:
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(("aftermix", *(part for part in parts if part != "__init__")))

    def place(self, line: int, name: str) -> str:
        return f"{self.path}:{line} {name}"


def read_package(checkout: Path) -> tuple[SourceFile, ...]:
    """Every Python file of `src/aftermix`, in the order of the paths."""
    package = checkout / "src" / "aftermix"
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    if not files:
        raise SystemExit(f"{package}: expected Python files, found none. Name the folder of a checkout.")

    return tuple(SourceFile(name, files[name].read_text(encoding="utf-8")) for name in sorted(files))


def is_docstring(statement: ast.AST) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str)


def string_value(statement: ast.stmt) -> str:
    return str(ast.literal_eval(statement.value)) if isinstance(statement, ast.Expr) else ""


def first_line(statement: ast.stmt) -> int:
    decorators = statement.decorator_list if isinstance(statement, Definition) else []
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def last_line(node: ast.AST) -> int:
    return int(getattr(node, "end_lineno", 0) or 0)
