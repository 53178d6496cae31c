"""docs/architecture.md names what is there: every file, and the functions of its trips and recipes."""

from __future__ import annotations

import ast
import math
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "aftermix"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LONGEST_LINE = 100
MOST_FILES = 15
SPECIFICATION = re.compile(r"\bSPE" r"C(\.md)?\b")
"""Name of a document that is not in the repository."""
LIBRARY_PAGE = "mixture.md"


def cut_section(heading: str) -> str:
    """Text under `heading`, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    below = PAGE.split(f"\n{heading}\n")[1]
    return re.split(rf"\n#{{1,{level}}} ", below)[0]


def list_subsections(heading: str) -> dict[str, str]:
    """Text under each heading one level below `heading`."""
    marks = "#" * (len(heading) - len(heading.lstrip("#")) + 1)
    parts = cut_section(heading).split(f"\n{marks} ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def read_tree() -> dict[str, str]:
    """Line of each file of the tree, by its path below the package; a file that stands twice is refused."""
    lines: dict[str, str] = {}
    for folder, text in list_subsections("### The package").items():
        for name, line in re.findall(r"^- `([^`]+)`: (.+)$", text, re.MULTILINE):
            path = folder.strip("`").removeprefix("aftermix/") + name
            assert path not in lines, path
            lines[path] = line
    return lines


def locate(path: str) -> Path:
    """The file or folder that the page calls `path`: below the package, else below the repository."""
    return PACKAGE / path if (PACKAGE / path).exists() else ROOT / path


@cache
def list_definitions(file: Path) -> frozenset[str]:
    """Functions, classes, `Class.member` and constants that `file` defines at its top."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names |= _name(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member}" for part in node.body for member in _name(part)}
    return frozenset(names)


def _name(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


TRIPS = list_subsections("## Four trips")
REFERENCES = sorted(set(re.findall(r"`([\w./-]+\.py)`: `([\w.]+)`", PAGE.split("\n## Every file\n")[0])))
PLACES = sorted(set(re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.\w+)?|[\w-]+\.py)`", cut_section("## Where is ...?"))))


def test_the_tree_is_that_of_the_package() -> None:
    files = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and file.name != "__init__.py" and "__pycache__" not in file.parts
    }
    assert set(read_tree()) == files


def test_a_line_of_the_tree_is_short() -> None:
    assert {path: line for path, line in read_tree().items() if len(line) > LONGEST_LINE} == {}


def test_the_page_has_four_trips() -> None:
    assert len(TRIPS) == 4


@pytest.mark.parametrize("trip", TRIPS.values(), ids=list(TRIPS))
def test_a_trip_is_a_short_list_of_files_and_functions(trip: str) -> None:
    steps = re.findall(r"^(\d+)\. (.*)$", trip, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    files = [re.match(r"`([^`]+)`: `[^`]+`", text) for _, text in steps]
    assert all(files)
    assert len({found[1] for found in files if found}) <= MOST_FILES


@pytest.mark.parametrize(("path", "name"), REFERENCES, ids=[":".join(pair) for pair in REFERENCES])
def test_a_function_that_the_page_names_is_there(path: str, name: str) -> None:
    assert name in list_definitions(locate(path))


def test_every_place_of_the_page_is_there() -> None:
    named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|html|md))`", PAGE)
    assert [path for path in [*PLACES, *named] if "NAME" not in path and not locate(path).exists()] == []


def test_every_package_has_its_layer() -> None:
    rows = re.findall(r"^\| \d \|([^|]*)\|", cut_section("## Layers"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\(?`(\w+)`", row)]
    optional = {name for row in rows for name in re.findall(r"\(`(\w+)`\)", row)}

    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    modules = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert sorted({*named} - optional) == sorted(packages | modules)
    assert len(named) == len(set(named))


def test_the_layers_are_those_of_the_contract() -> None:
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\nlayers = [\n")[1].split("\n]")[0]
    layers = [sorted(re.findall(r"aftermix\.(\w+)", line)) for line in contract.splitlines()]
    rows = re.findall(r"^\| \d \|([^|]*)\|", cut_section("## Layers"), re.MULTILINE)
    assert [sorted(re.findall(r"`(\w+)`", row)) for row in rows] == layers


def test_no_document_is_cited_that_is_not_in_the_repository() -> None:
    folders = ("src", "tests", "docs", "studies", "examples", "benchmarks", "tools")
    files = [file for folder in folders for kind in ("py", "md", "html") for file in (ROOT / folder).rglob(f"*.{kind}")]
    citing = [file for file in files if SPECIFICATION.search(file.read_text(encoding="utf-8", errors="replace"))]
    assert [file.relative_to(ROOT).as_posix() for file in citing] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_what_a_page_imports_is_there(page: Path) -> None:
    for module, names in re.findall(r"^from aftermix([\w.]*) import ([\w, ]+)$", page.read_text("utf-8"), re.MULTILINE):
        folder = PACKAGE.joinpath(*module.strip(".").split("."))
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        text = file.read_text(encoding="utf-8")
        for name in names.split(", "):
            assert name in list_definitions(file) or re.search(rf"\b{name}\b", text), f"{page.name}: {module} {name}"


def test_the_page_of_the_library_names_its_functions() -> None:
    text = (ROOT / "docs" / LIBRARY_PAGE).read_text(encoding="utf-8")
    files = [file for folder in ("mixture", "training", "jobs") for file in (PACKAGE / folder).rglob("*.py")]
    known = {name.rpartition(".")[2] for file in files for name in list_definitions(file)}

    called = re.findall(r"`(?:\w+\.)*(\w+)\(", text)
    named = re.findall(r"`(?:aftermix|regmix|cost)(?:\.\w+)*\.(\w+)`", text)
    modules = {file.stem for file in files} | {file.parent.name for file in files}
    assert {*called, *named} - known - modules - set(dir(math)) == set()
