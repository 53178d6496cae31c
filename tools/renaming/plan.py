"""The plan of edits, and the rows in names of the present tree."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tools.renaming.rows import Row, Rows
from tools.renaming.tree import Module, Tree


@dataclass(frozen=True)
class Edit:
    """One identifier to replace."""

    start: int
    old: str
    new: str
    row: Row


@dataclass
class Plan:
    """Edits of every file, and what a reader has to look at."""

    edits: dict[str, dict[int, Edit]] = field(default_factory=lambda: defaultdict(dict))
    unresolved: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    used: set[Row] = field(default_factory=set)
    common: Counter[str] = field(default_factory=Counter)


@dataclass
class Wanted:
    """The rows in names of the present tree."""

    names: dict[tuple[str, str], Row] = field(default_factory=dict)
    members: dict[str, Row] = field(default_factory=dict)
    locals: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    words: dict[str, Row] = field(default_factory=dict)

    def list_words(self) -> set[str]:
        """Every old name."""
        every = [*self.names.values(), *self.members.values(), *self.locals.values(), *self.words.values()]
        return {row.old for row in every}


def place_rows(rows: Rows, tree: Tree, plan: Plan) -> Wanted:
    """Find what each row renames in the present tree; what is not there is done already or an error."""
    wanted = Wanted(words={row.old: row for row in rows.of("word")})
    for row in rows.of("name", "member", "local", "param"):
        name = rows.find_module(row.module, row.path)
        module = tree.modules.get(name) or tree.modules.get(name.removeprefix("tests."))
        if module is None:
            plan.errors.append(f"{row}: no module {name} in this tree. Is there a `module` row for {row.module}?")
            continue
        owner = _find_owner(row, rows, module)
        if owner is None:
            plan.errors.append(f"{row}: {module.name} has no {row.owner}")
        elif row.kind in {"local", "param"}:
            wanted.locals[module.name, owner, row.old] = row
        else:
            _place_definition(row, owner, module, wanted, plan)
    return wanted


def _find_owner(row: Row, rows: Rows, module: Module) -> str | None:
    for owner in (row.owner, rows.rename_path(row.module, row.owner)):
        if not owner or owner in module.defined:
            return owner
    parts, renamed = row.owner.split("."), rows.rename_path(row.module, row.owner).split(".")
    candidates = [""]
    for old, new in zip(parts, renamed, strict=True):
        candidates = [f"{head}.{part}".lstrip(".") for head in candidates for part in {old, new}]
    return next((one for one in candidates if one in module.defined), None)


def _place_definition(row: Row, owner: str, module: Module, wanted: Wanted, plan: Plan) -> None:
    path = f"{owner}.{row.old}" if owner else row.old
    new = f"{owner}.{row.new}" if owner else row.new
    if path not in module.defined:
        if new in module.defined:
            plan.done.append(str(row))
        else:
            plan.errors.append(f"{row}: {module.name} defines neither {path} nor {new}")
    elif new in module.defined:
        plan.errors.append(f"{row}: {module.name} defines {new} already")
    elif row.kind == "name":
        wanted.names[module.name, row.old] = row
    else:
        wanted.members[f"{module.name}.{path}"] = row
