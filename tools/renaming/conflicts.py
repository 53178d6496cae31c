"""Check of a plan: after the edits, every identifier must be decided by the same scope as before."""

from __future__ import annotations

from collections.abc import Callable

from tools.renaming.plan import Edit, Plan
from tools.renaming.rows import Row
from tools.renaming.sketch import Sketch


def find_conflicts(plan: Plan, before: dict[str, Sketch], after: Callable[[str], Sketch | None]) -> list[str]:
    """Places where a new name meets another: the scope that decides each identifier must stay the same."""
    errors: list[str] = []
    for module, edits in plan.edits.items():
        later = after(module)
        if later is None or not edits:
            continue
        errors += _compare_bindings(module, before[module], later, edits)
    return errors


def _compare_bindings(module: str, before: Sketch, after: Sketch, edits: dict[int, Edit]) -> list[str]:
    errors: list[str] = []
    forward: dict[tuple[int | None, str], tuple[str, Row | None]] = {}
    backward: dict[tuple[int | None, str], tuple[str, Row | None]] = {}
    if len(before.names) != len(after.names):
        return [f"{module}: another number of identifiers after the edits"]

    for old, new in zip(before.names, after.names, strict=True):
        row = edits[old.start].row if old.start in edits else None
        was, now = before.resolve(old.text, old.scope), after.resolve(new.text, new.scope)
        if was != now:
            errors.append(_describe(module, old.line, old.text, new.text, row or _guess_row(edits, new.text)))
            continue
        for table, key, value in ((forward, old.text, new.text), (backward, new.text, old.text)):
            first = table.setdefault((now, key), (value, row))
            if first[0] != value:
                errors.append(_describe(module, old.line, old.text, new.text, row or first[1]))
    return errors


def _guess_row(edits: dict[int, Edit], new: str) -> Row | None:
    return next((edit.row for edit in edits.values() if edit.new == new), None)


def _describe(module: str, line: int, old: str, new: str, row: Row | None) -> str:
    return (
        f"{row}: in {module}, line {line}, {old} -> {new} meets another name {new}, or only a part of them is renamed"
    )
