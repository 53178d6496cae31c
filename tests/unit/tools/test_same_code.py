"""The comparison of two trees: what is the same up to rows, and that nothing else passes as the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.renaming.rows import Rows, read_rows
from tools.same_code import compare, main

OLD = '''\
"""Old."""

from __future__ import annotations

import math
from dataclasses import dataclass

LIMIT = 3


@dataclass
class Place:
    """Where."""

    over: int = 1
    width: float = 2.0

    def told(self, asked: int) -> str:
        """What."""
        found = [self.over + one for one in range(asked)]
        return f"{found} {LIMIT:>3}"


def helper(place: Place, say=print) -> float:
    from json import dumps

    if place.width >= 1 and place.over != 2:
        say(dumps([1, 2]), place.told(asked=3))
    return math.sqrt(place.width) - LIMIT
'''
NEW = '''\
"""New."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
import math

LIMIT = 3


@dataclass
class TensorKey:
    """Key of a tensor."""

    first: int = 1
    width: float = 2.0

    def summarise(self, options: "int") -> str:
        """Text."""
        # Why.
        problems = [self.first + one for one in range(options)]

        return f"{problems} {LIMIT:>3}"


def build(place: TensorKey, log=print) -> float:
    from json import dumps

    if place.width >= 1 and place.first != 2:
        log(dumps([1, 2]), place.summarise(options=3))

    return math.sqrt(place.width) - LIMIT
'''
ROWS = """\
module aftermix.old aftermix.room.new
name aftermix.old:Place TensorKey
name aftermix.old:helper build
member aftermix.old:Place.over first
member aftermix.old:Place.told summarise
param aftermix.old:Place.told.asked options
local aftermix.old:Place.told.found problems
word say log
"""


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    (tmp_path / "rows.txt").write_text(ROWS)
    return read_rows([tmp_path / "rows.txt"])


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / "src" / "aftermix" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def list_differences(tmp_path: Path, rows: Rows, new: str, old: str = OLD) -> set[str]:
    before = write(tmp_path / "old", {"__init__.py": "", "old.py": old})
    after = write(tmp_path / "new", {"__init__.py": "", "room/__init__.py": "", "room/new.py": new})
    return {one.name.partition(":")[2] for one in compare(before, after, rows) if one.name != "aftermix.room:<module>"}


def test_listed_renames_docstrings_and_paragraphs_are_the_same_code(tmp_path: Path, rows: Rows) -> None:
    assert list_differences(tmp_path, rows, NEW) == set()


@pytest.mark.parametrize(
    ("was", "becomes", "where"),
    [
        ("LIMIT = 3", "LIMIT = 4", "LIMIT"),
        ("LIMIT = 3", "LIMIT = 3.0", "LIMIT"),
        ("LIMIT = 3", "LIMIT = True", "LIMIT"),
        ("width: float = 2.0", "width: float = 2.5", "Place"),
        ("width: float", "width: int", "Place"),
        ("    first: int = 1\n    width: float = 2.0", "    width: float = 2.0\n    first: int = 1", "Place"),
        ("@dataclass\n", "@dataclass(frozen=True)\n", "Place"),
        ("self.first + one", "self.first - one", "Place.told"),
        ("self.first + one", "one + self.first", "Place.told"),
        (":>3}", ":>4}", "Place.told"),
        ('f"{problems} {', 'f"{problems}  {', "Place.told"),
        ("range(options)", "range(options + 0)", "Place.told"),
        ("range(options)", "range(LIMIT)", "Place.told"),
        (">= 1 and", "> 1 and", "helper"),
        ("1 and place", "1 or place", "helper"),
        ("[1, 2]", "[2, 1]", "helper"),
        ("dumps([1, 2]), place", "dumps([1, 2]), not place", "helper"),
        ("dumps([1, 2]), place.summarise(options=3)", "place.summarise(options=3), dumps([1, 2])", "helper"),
        ("options=3", "3", "helper"),
        ("log=print", "log=repr", "helper"),
        ("math.sqrt", "math.cbrt", "helper"),
        ("math.sqrt(place", "math.floor(place", "helper"),
        ("    from json import dumps\n", "    from pickle import dumps\n", "helper"),
        ("    from json import dumps\n\n", "", "helper"),
        ("- LIMIT", "- 3", "helper"),
        ("place.width) -", "place.first) -", "helper"),
        ("log(dumps", "print(dumps", "helper"),
        ("    return math", "        return math", "helper"),
    ],
)
def test_every_change_is_found(tmp_path: Path, rows: Rows, was: str, becomes: str, where: str) -> None:
    assert was in NEW
    new = NEW.replace(was, becomes)
    if "from json" in was and not becomes:
        new = new.replace("import math\n", "import math\nfrom json import dumps\n")
    assert where in list_differences(tmp_path, rows, new)


def test_a_rename_without_a_row_is_found(tmp_path: Path, rows: Rows) -> None:
    assert list_differences(tmp_path, rows, NEW.replace("one", "entry")) == {"Place.told"}
    assert list_differences(tmp_path, rows, NEW.replace("width", "breadth")) == {"Place", "helper"}


def test_a_name_that_leads_elsewhere_is_found(tmp_path: Path, rows: Rows) -> None:
    moved = NEW.replace("import math\n", "import cmath as math\n")
    assert list_differences(tmp_path, rows, moved) == {"helper"}


def test_swapped_local_names_are_found(tmp_path: Path, rows: Rows) -> None:
    old = "def swap(a, b):\n    return a - b\n"
    assert list_differences(tmp_path, rows, old.replace("a - b", "b - a"), old) == {"swap"}
    assert list_differences(tmp_path, rows, "def swap(b, a):\n    return a - b\n", old) == {"swap"}


def test_definitions_of_one_side_only_are_listed(tmp_path: Path, rows: Rows) -> None:
    assert list_differences(tmp_path, rows, NEW + "\n\ndef extra():\n    pass\n") == {"extra"}
    assert list_differences(tmp_path, rows, NEW.replace("def build", "def built")) == {"helper", "built"}


def test_statements_at_module_level_count(tmp_path: Path, rows: Rows) -> None:
    assert list_differences(tmp_path, rows, NEW + "\nprint(LIMIT)\n") == {"<statements>"}


def test_moved_definitions_are_followed(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("move aftermix.a:helper aftermix.b\n")
    old = {
        "__init__.py": "",
        "a.py": "def helper():\n    return 1\n",
        "c.py": "from aftermix.a import helper\n\nX = helper()\n",
    }
    new = {"__init__.py": "", "b.py": old["a.py"], "c.py": "from aftermix.b import helper\n\nX = helper()\n"}
    rows = read_rows([tmp_path / "rows.txt"])
    assert compare(write(tmp_path / "old", old), write(tmp_path / "new", new), rows) == []


def test_listed_differences_are_printed_and_allowed(tmp_path: Path, rows: Rows, capsys: pytest.CaptureFixture) -> None:
    list_differences(tmp_path, rows, NEW.replace("LIMIT = 3", "LIMIT = 4"))
    command = [str(tmp_path / "old"), str(tmp_path / "new"), str(tmp_path / "rows.txt")]
    allow = tmp_path / "allow.txt"
    allow.write_text("")
    assert main([*command, "--allow", str(allow), "-v"]) == 1
    assert "-LIMIT = 3" in capsys.readouterr().out
    allow.write_text("aftermix.old:LIMIT a larger limit\n")
    assert main([*command, "--allow", str(allow)]) == 0
    assert "allowed: aftermix.old:LIMIT" in capsys.readouterr().out
