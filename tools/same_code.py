"""Compare the code of two checkouts up to listed renames: `python -m tools.same_code OLD NEW RENAMES [-v]`.

Every function, class and module-level statement of `src/aftermix` that differs in more than names, docstrings,
comments and the annotations of functions is listed. Definitions in the file of `--allow` (one `module:name` and a
reason a line, by the old name, or by the new name where there is no old one) are printed and do not fail.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.renaming.rows import Rows, read_rows
from tools.renaming.speller import Matcher, Speller
from tools.renaming.tokens import Unit, list_units
from tools.renaming.tree import read_tree


@dataclass
class Difference:
    """One definition that is not the same on both sides."""

    name: str
    note: str
    diff: str = ""


def compare(old: Path, new: Path, rows: Rows, folder: str = "src") -> list[Difference]:
    """All differences between two checkouts."""
    old_tree, new_tree = read_tree(old, (folder,)), read_tree(new, (folder,))
    old_speller, new_speller = Speller(old_tree, rows), Speller(new_tree, Rows([]))
    old_units = [unit for module in old_tree.modules.values() for unit in list_units(module, old_speller)]
    new_units: dict[tuple[str, str], list[Unit]] = {}
    for module in new_tree.modules.values():
        for unit in list_units(module, new_speller):
            new_units.setdefault((unit.module, unit.path), []).append(unit)

    # A name may be defined several times, as by overloads: the definitions are compared in order.
    matcher, differences = Matcher(rows), []
    for unit in old_units:
        key = next((key for key in unit.keys if new_units.get(key)), None)
        name = f"{unit.module}:{unit.path}"
        if key is None:
            differences.append(
                Difference(name, f"only in the old tree; expected as {':'.join(unit.keys[0])}", unit.text)
            )
            continue
        other = new_units[key].pop(0)
        if not matcher.match(unit.tokens, other.tokens):
            differences.append(Difference(name, f"-> {':'.join(key)}", _draw_diff(unit, other)))
    for left in new_units.values():
        differences += [Difference(f"{one.module}:{one.path}", "only in the new tree", one.text) for one in left]
    return differences


def _draw_diff(old: Unit, new: Unit) -> str:
    lines = list(difflib.unified_diff(old.text.splitlines(), new.text.splitlines(), "old", "new", lineterm="", n=1))
    if lines:
        return "\n".join(lines)
    pairs = zip(old.tokens, new.tokens, strict=False)
    first = next(((one, other) for one, other in pairs if one != other), None)
    return f"the same text; names lead elsewhere: {first}"


def read_allowed(file: Path | None) -> dict[str, str]:
    """Names that may differ, each with its reason."""
    if file is None or not file.exists():
        return {}
    allowed: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, reason = line.partition("#")[0].strip().partition(" ")
        if name:
            allowed[name] = reason.strip()
    return allowed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("renames", type=Path, nargs="+")
    parser.add_argument("--allow", type=Path, default=Path(__file__).with_name("same_code_allowed.txt"))
    parser.add_argument("-v", "--verbose", action="store_true", help="Show how each definition differs.")
    options = parser.parse_args(arguments)

    rows, allowed = read_rows(options.renames), read_allowed(options.allow)
    differences = compare(options.old.resolve(), options.new.resolve(), rows)
    failures = 0
    for one in differences:
        reason = allowed.get(one.name)
        failures += reason is None
        print(f"{'differs' if reason is None else 'allowed'}: {one.name} {one.note}{f' ({reason})' if reason else ''}")
        if options.verbose and reason is None and one.diff:
            print("\n".join(f"    {line}" for line in one.diff.splitlines()))
    print(f"{failures} differences, {len(differences) - failures} allowed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
