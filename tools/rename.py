"""Rename what the rows of `tools/renames/` list, in place: `python -m tools.rename [--only FILE...] [--dry-run]`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools.renaming.conflicts import find_conflicts
from tools.renaming.drawer import draw_sketch
from tools.renaming.facts import World, gather_facts
from tools.renaming.plan import Edit, Plan, place_rows
from tools.renaming.planner import Planner
from tools.renaming.rows import Row, RowError, read_rows
from tools.renaming.sketch import Sketch
from tools.renaming.strings import StringPlanner
from tools.renaming.tree import Module, Tree, read_tree

TEMPLATE_SUFFIXES = ("*.html", "*.j2")


@dataclass
class Outcome:
    """What a run planned, and the files as they are to be."""

    plan: Plan
    texts: dict[str, str]


def rename(root: Path, row_files: Sequence[Path], only: Sequence[Path] = (), write: bool = True) -> Outcome:
    """Work out all edits, check them, and write them unless anything is wrong."""
    rows, tree, plan = read_rows(list(row_files)), read_tree(root), Plan()
    wanted = place_rows(rows, tree, plan)
    words = wanted.list_words()
    if plan.errors or not words:
        return Outcome(plan, {})

    # Only files that hold an old name can change; all files are type-checked together.
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, sorted(words))) + r")\b")
    touched = [module for module in tree.modules.values() if pattern.search(module.source)]
    planner = Planner(tree, wanted, _draw_all(touched), plan)
    planner.plan_names()

    world = World({}, {}, {}, [])
    if wanted.members or planner.keyword_words:
        sources = {name: module.file for name, module in tree.modules.items()}
        world = gather_facts(sources, root, planner.member_words, planner.keyword_words)
    planner.plan_members(world)
    strings = StringPlanner(planner)
    strings.plan_copies()
    strings.plan_texts()
    _list_templates(root, wanted.list_words() if wanted.members else set(), plan)

    # Rows that met nothing, and names that would meet another.
    missing = [row for row in wanted.locals.values() if not _is_done(row, plan, planner)]
    plan.errors += [f"{row}: found nowhere" for row in missing]
    for chosen in [*wanted.names.values(), *wanted.members.values()]:
        if chosen not in plan.used:
            plan.errors.append(f"{chosen}: defined, but no place to edit was found")
    texts = {name: apply_edits(tree.modules[name].source, list(edits.values())) for name, edits in plan.edits.items()}
    later = _draw_all([Module(name, tree.modules[name].file, text) for name, text in texts.items()])
    plan.errors += find_conflicts(plan, planner.sketches, later.get)

    if only:
        chosen_files = {path.resolve() for path in only}
        texts = {name: text for name, text in texts.items() if tree.modules[name].file.resolve() in chosen_files}
    if write and not plan.errors:
        write_texts(tree, texts)
    return Outcome(plan, texts)


def _is_done(row: Row, plan: Plan, planner: Planner) -> bool:
    if row in plan.used:
        return True
    for (module, owner, _), wanted in planner.wanted.locals.items():
        if wanted is not row:
            continue
        source = planner.tree.modules[module].source
        sketch = planner.sketches.get(module) or draw_sketch(source, module, planner.tree.modules[module].package)
        if any(scope.path == owner and row.new in scope.bound for scope in sketch.scopes):
            plan.done.append(str(row))
            return True
    return False


def apply_edits(source: str, edits: list[Edit]) -> str:
    """The text with every edit made."""
    parts: list[str] = []
    end = 0
    for edit in sorted(edits, key=lambda one: one.start):
        if source[edit.start : edit.start + len(edit.old)] != edit.old:
            raise RowError(f"{edit.row}: expected {edit.old} at character {edit.start}")
        parts += [source[end : edit.start], edit.new]
        end = edit.start + len(edit.old)
    return "".join([*parts, source[end:]])


def write_texts(tree: Tree, texts: dict[str, str]) -> None:
    """Write the files, sort their imports and format them."""
    files = []
    for name, text in texts.items():
        module = tree.modules[name]
        if text != module.source:
            module.file.write_text(text, encoding="utf-8")
            files.append(str(module.file))
    if files:
        ruff = [sys.executable, "-m", "ruff"]
        subprocess.run([*ruff, "check", "--quiet", "--select", "I,RUF022", "--fix", *files], cwd=tree.root, check=False)
        subprocess.run([*ruff, "format", "--quiet", *files], cwd=tree.root, check=False)


def _draw_all(modules: Sequence[Module]) -> dict[str, Sketch]:
    if len(modules) < 8:
        return {module.name: _draw(module) for module in modules}
    with ProcessPoolExecutor(2) as pool:
        return dict(zip((m.name for m in modules), pool.map(_draw, modules, chunksize=8), strict=True))


def _draw(module: Module) -> Sketch:
    return draw_sketch(module.source, module.name, module.package)


def _list_templates(root: Path, words: set[str], plan: Plan) -> None:
    if not words:
        return
    pattern = re.compile(r"(?:\.|\b)(" + "|".join(map(re.escape, sorted(words))) + r")\b")
    for suffix in TEMPLATE_SUFFIXES:
        for file in sorted((root / "src").rglob(suffix)):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                code = " ".join(re.findall(r"\{[{%](.*?)[}%]\}", line))
                for match in pattern.finditer(code):
                    plan.unresolved.append(f"{file.relative_to(root)}:{number}: {match[1]} in a template")


def _print_outcome(outcome: Outcome, dry: bool) -> None:
    plan = outcome.plan
    for title, lines in (("already applied", plan.done), ("unresolved", plan.unresolved), ("error", plan.errors)):
        for line in sorted(set(lines)):
            print(f"{title}: {line}")
    for name, times in sorted(plan.common.items()):
        print(f"left alone: .{name} of unknown objects, which builtins and libraries have too, {times} times")
    count = sum(len(edits) for edits in plan.edits.values())
    verb = "planned" if dry or plan.errors else "made"
    print(f"{verb}: {count} edits in {len(outcome.texts)} files")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="The checkout.")
    parser.add_argument("--rows", type=Path, nargs="+", help="Files or folders of rows; tools/renames by default.")
    parser.add_argument("--only", type=Path, nargs="+", default=[], help="Write only these files.")
    parser.add_argument("--dry-run", action="store_true", help="Print, and write nothing.")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    try:
        outcome = rename(root, options.rows or [root / "tools" / "renames"], options.only, not options.dry_run)
    except RowError as error:
        print(f"error: {error}")
        return 1
    _print_outcome(outcome, options.dry_run)
    return 1 if outcome.plan.errors else 0


if __name__ == "__main__":
    sys.exit(main())
