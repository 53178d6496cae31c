"""Names of functions that begin with a verb, and of a variable that says nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from .measure import Measure
from .source import Function, SourceFile

VERBS = Path(__file__).with_name("verbs.txt")
PREDICATE = re.compile(r"_*(is|has|can)_")
MERGE_RULES = frozenset({"merging/inter.py", "merging/intra.py", "merging/rules/inter.py", "merging/rules/intra.py"})
JOINTS = frozenset({"of", "for", "in", "at", "on", "per", "and", "or", "between", "within"})
NOUN_TAILS = frozenset({"record", "records", "lines", "text", "count", "counts", "cells", "notes", "options", "names"})


def measure_verbs(files: Sequence[SourceFile]) -> Measure:
    """Share of the functions that begin with a verb, of those that are to; the places are the others."""
    verbs = read_verbs()
    names = [(file, node) for file in files for node in file.functions if needs_verb(file, node)]
    without = tuple(
        file.place(node.lineno, node.name) for file, node in names if not begins_with_verb(node.name, verbs)
    )
    return Measure(
        "verbs", "functions that begin with a verb", len(names) - len(without), len(names), ">= 50 %", without
    )


@cache
def read_verbs() -> frozenset[str]:
    lines = VERBS.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def begins_with_verb(name: str, verbs: frozenset[str]) -> bool:
    first, *rest = name.strip("_").split("_")
    if first in verbs or not rest:
        return first in verbs
    return f"{first}_" in verbs and rest[0] not in JOINTS and rest[-1] not in NOUN_TAILS


def needs_verb(file: SourceFile, function: Function) -> bool:
    """False for dunder methods, properties, predicates, overloads, commands of the CLI and merge rules."""
    name = function.name
    decorators = [ast.unparse(getattr(node, "func", node)) for node in function.decorator_list]
    kinds = {decorator.rpartition(".")[2] for decorator in decorators}
    return not (
        (name.startswith("__") and name.endswith("__"))
        or kinds & {"property", "cached_property", "setter", "overload"}
        or PREDICATE.match(name)
        or (function.returns is not None and re.match(r"'?(bool$|TypeGuard|TypeIs)", ast.unparse(function.returns)))
        or (file.path.startswith(("cli.py", "cli/")) and kinds & {"command", "group"})
        or file.path in MERGE_RULES
    )


def measure_found(files: Sequence[SourceFile]) -> Measure:
    """Assignments to a variable `found`, those of loops and `with` too."""
    places = tuple(
        file.place(node.lineno, "found")
        for file in files
        for node in file.nodes
        if isinstance(node, ast.Name) and node.id == "found" and isinstance(node.ctx, ast.Store)
    )
    return Measure("found", "assignments to `found`", len(places), places=places)
