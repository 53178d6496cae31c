"""Docstrings that open with a question word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from .measure import Measure
from .source import Definition, SourceFile, is_docstring, string_value

QUESTION = re.compile(r"\W*(what|which|whether|how|where|when|why|who|whose)\b", re.IGNORECASE)


def measure_docstrings(files: Sequence[SourceFile]) -> Measure:
    """Share of the docstrings of modules, classes and functions that open with a question word."""
    texts: list[tuple[str, str]] = []
    for file in files:
        for node in file.nodes:
            if isinstance(node, ast.Module | Definition) and (text := ast.get_docstring(node)) is not None:
                line = node.body[0].lineno
                texts.append((file.place(line, text.splitlines()[0]), text))

    asking = tuple(place for place, text in texts if QUESTION.match(text))
    return Measure("question_docstrings", "docstrings that open with a question", len(asking), len(texts), "0", asking)


def measure_attribute_docstrings(files: Sequence[SourceFile]) -> Measure:
    """Share of the docstrings below a field or a constant that open with a question word."""
    total = 0
    asking: list[str] = []
    for file in files:
        for line, text in attribute_docstrings(file):
            total += 1
            if QUESTION.match(text):
                asking.append(file.place(line, text.strip().splitlines()[0]))

    label = "docstrings of attributes that do"
    return Measure("question_attributes", label, len(asking), total, "0", tuple(asking))


def attribute_docstrings(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Strings that stand as statements of a module or class, below an assignment."""
    for node in file.nodes:
        if not isinstance(node, ast.Module | ast.ClassDef):
            continue
        for before, statement in zip(node.body, node.body[1:], strict=False):
            if isinstance(before, ast.Assign | ast.AnnAssign) and is_docstring(statement):
                yield statement.lineno, string_value(statement)
