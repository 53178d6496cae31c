"""Paragraphs in the bodies of functions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from .measure import Measure
from .source import Definition, Function, SourceFile, first_line, is_docstring, last_line


@dataclass(frozen=True)
class Body:
    """Lines and statements of a function, from after its docstring; insides of nested definitions are not its own."""

    first: int
    last: int
    white: frozenset[int]
    """Blank lines and lines of comment alone."""
    starts: tuple[int, ...]
    """First lines of the statements, nested ones too."""
    inner: frozenset[int]
    """Lines within one statement: no paragraph ends there."""

    @property
    def length(self) -> int:
        return self.last - self.first + 1

    def has_break(self) -> bool:
        """At least two statements before and two after a line that is blank or a comment."""
        return any(
            sum(start < line for start in self.starts) >= 2 and sum(start > line for start in self.starts) >= 2
            for line in self.white - self.inner
        )


@cache
def read_body(file: SourceFile, function: Function) -> Body:
    statements = function.body
    if is_docstring(statements[0]):
        first, statements = last_line(statements[0]) + 1, statements[1:]
    else:
        first = first_line(statements[0])
        while first - 1 > function.lineno and first - 1 in file.white_lines:
            first -= 1

    own = list(walk_statements(statements))
    last = max(map(last_line, own), default=first - 1)
    while first <= last and not file.lines[first - 1].strip():
        first += 1

    return Body(
        first,
        last,
        white=file.white_lines.intersection(range(first, last + 1)),
        starts=tuple(map(first_line, own)),
        inner=frozenset(line for statement in own for line in inner_lines(statement)),
    )


def walk_statements(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements and those nested in them, but for the insides of nested functions and classes."""
    for statement in statements:
        yield statement
        if not isinstance(statement, Definition):
            for part in ast.iter_child_nodes(statement):
                yield from walk_statements(nested_statements(part))


def nested_statements(node: ast.AST) -> list[ast.stmt]:
    if isinstance(node, ast.stmt):
        return [node]
    return list(node.body) if isinstance(node, ast.ExceptHandler | ast.match_case) else []


def inner_lines(statement: ast.stmt) -> range:
    """Lines of a simple statement, of a nested definition, or of the head of a loop or condition."""
    if isinstance(statement, Definition) or not (hasattr(statement, "body") or hasattr(statement, "cases")):
        return range(first_line(statement), last_line(statement) + 1)

    head = [part for part in ast.iter_child_nodes(statement) if not isinstance(part, ast.stmt)]
    ends = [
        last_line(node)
        for part in head
        if not isinstance(part, ast.ExceptHandler | ast.match_case)
        for node in ast.walk(part)
        if hasattr(node, "end_lineno")
    ]
    return range(statement.lineno, max(ends, default=statement.lineno) + 1)


def measure_white_lines(files: Sequence[SourceFile]) -> Measure:
    """Share of blank lines and lines of comment in the bodies of functions; a nested function is part of the outer."""
    white = total = 0
    for file in files:
        end = 0
        for node in sorted(file.functions, key=lambda node: node.lineno):
            if node.lineno > end:
                body, end = read_body(file, node), last_line(node)
                white, total = white + len(body.white), total + body.length

    return Measure("white_lines", "blank and comment lines in bodies", white, total, goal="11-21 %")


def measure_paragraphs(files: Sequence[SourceFile], *, over: int) -> Measure:
    """Share of the bodies of more than `over` lines that have a break; the places are those without."""
    bodies = [(file, node, read_body(file, node)) for file in files for node in file.functions]
    long = [(file, node, body) for file, node, body in bodies if body.length > over]
    without = tuple(file.place(node.lineno, node.name) for file, node, body in long if not body.has_break())
    label = f"bodies of {over + 1} lines or more with a paragraph break"
    goal = ">= 60 %" if over == 14 else ""
    return Measure(f"paragraphs_{over + 1}", label, len(long) - len(without), len(long), goal, without)
