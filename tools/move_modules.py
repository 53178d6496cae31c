"""Move modules to their rooms and rewrite every import of them: `python tools/move_modules.py [FILE ...]`.

`tools/renames/modules.txt` holds the rows `module OLD NEW`. Files move by `git mv`, so that history follows; dotted
paths are rewritten in one pass, the longest first, in every text file that git knows. With FILES only those are
rewritten, and nothing moves.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = {".py", ".md", ".toml", ".html", ".css", ".yaml", ".yml", ".sh", ""}


def read_rows(path: Path) -> dict[str, str]:
    """New module by old one."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {cells[1]: cells[2] for cells in lines if cells and cells[0] == "module"}


def locate_module(module: str) -> Path:
    """The file of a module below `src`."""
    return ROOT / "src" / Path(*module.split(".")).with_suffix(".py")


def move_files(rows: dict[str, str]) -> None:
    """Move all files; through a name of its own first, since one may take the place of another."""
    waiting: list[tuple[Path, Path]] = []
    for old, new in rows.items():
        source, target = locate_module(old), locate_module(new)
        if source.is_file():
            passing = source.with_name(f"{source.stem}.moving")
            subprocess.run(["git", "mv", str(source), str(passing)], check=True, cwd=ROOT)
            waiting.append((passing, target))

    for passing, target in waiting:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "mv", str(passing), str(target)], check=True, cwd=ROOT)


def rewrite_paths(text: str, rows: dict[str, str]) -> str:
    """`text` with each dotted path of an old module, and each import of it out of its package, as the new one."""
    for old, new in rows.items():
        (old_package, _, old_name), (new_package, _, new_name) = old.rpartition("."), new.rpartition(".")
        kept = "" if old_name == new_name else f" as {old_name}"
        text = re.sub(
            rf"^( *)from {re.escape(old_package)} import {old_name}( as \w+)?$",
            lambda match, target=f"from {new_package} import {new_name}", alias=kept: (
                f"{match[1]}@{target}{match[2] or alias}"
            ),
            text,
            flags=re.MULTILINE,
        )
    paths = "|".join(re.escape(old) for old in sorted(rows, key=len, reverse=True))
    text = re.sub(rf"(?<![\w./@])(?<!@from )({paths})(?!\w|\.yaml)", lambda match: rows[match[1]], text)
    return text.replace("@from ", "from ")


def list_files() -> list[str]:
    """Every file that git knows and whose modules are ours to rewrite."""
    listed = subprocess.run(["git", "ls-files"], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    foreign = ("tools/", "tests/data/", "examples/demo/texts/")
    return [name for name in listed.splitlines() if Path(name).suffix in TEXT and not name.startswith(foreign)]


def main() -> None:
    """Move, then rewrite."""
    rows = read_rows(ROOT / "tools" / "renames" / "modules.txt")
    if not sys.argv[1:]:
        move_files(rows)

    for name in sys.argv[1:] or list_files():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (rewritten := rewrite_paths(text, rows)) != text:
            path.write_text(rewritten, encoding="utf-8")


if __name__ == "__main__":
    main()
