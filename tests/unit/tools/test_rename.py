"""The rename script on a small tree: every kind of row, what must not be touched, and what must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.rename import Outcome, rename
from tools.renaming.drawer import draw_sketch
from tools.renaming.rows import RowError, read_rows

SHAPES = '''\
"""Shapes; a `Place` is one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Place", "reach"]
reach = 3


class Say(Protocol):
    def __call__(self, text: str, *, say: bool = False) -> None: ...


@dataclass(frozen=True)
class Place:
    """A `Place`."""

    over: int = 1
    under: int = 2

    def told(self, asked: int = 0) -> int:
        """As :meth:`told` says of `asked`: `Place.over`, :class:`~aftermix.new.shapes.Place`, not `say`."""
        return self.over + asked


class Inner(Place):
    def told(self, asked: int = 0) -> int:
        return super().told(asked=asked) + self.over


class Other:
    over = 5
    reach = 7

    def told(self) -> int:
        return self.over + reach
'''
WORK = """\
from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, cast

import aftermix.new.shapes as shapes
from aftermix.new.shapes import Inner, Other, reach
from aftermix.new.shapes import Place as Spot

if TYPE_CHECKING:
    from aftermix.new.shapes import Place


def resolve(place: Place, other: "Other | Place", say: object = None) -> list[int]:
    # One of the `Place`.
    found = [place.over for place in [cast("Place", place)]]
    total = f"é{place.over} {found}" + "found"

    def inner(found: int) -> int:
        return found + len(total)

    return [*found, inner(found=1), Other().over, shapes.Place().over, Spot(over=2).over, reach]


def call(log2: object) -> None:
    from aftermix.new.shapes import Place

    one = Place(over=1)
    resolve(one, one, say=log2)
    partial(resolve, say=log2)
    dataclasses.replace(one, over=3)
    print([found for found in range(3)], {"say": 1}, Inner().told(asked=4), Other().told())
    if any((seen := found) for found in range(3)):
        print(seen)


def count() -> int:
    say = 0

    def step() -> None:
        nonlocal say
        say += reach

    step()
    return say


def hide(reach: int) -> int:
    return reach
"""
TESTS = """\
import pytest

from aftermix.new import shapes
from aftermix.new.work import resolve


@pytest.mark.parametrize("say", [1, 2])
def test_it(monkeypatch, say):
    monkeypatch.setattr("aftermix.new.shapes.Place", None)
    monkeypatch.setattr(shapes, "Place", None)
    monkeypatch.setattr(shapes.Place, "told", None)
    assert resolve(None, None, say=say) != "Place"


def test_unknown(thing):
    assert thing.under
"""
ROWS = """\
module aftermix.shapes aftermix.new.shapes
module aftermix.work aftermix.new.work
name aftermix.shapes:Place TensorKey   # the class
name aftermix.shapes:reach largest
member aftermix.shapes:Place.over first
member aftermix.shapes:Place.told summarise
member aftermix.shapes:Place.under second
param aftermix.shapes:Place.told.asked options
local aftermix.work:resolve.found problems
local aftermix.work:resolve.inner shift
word say log
"""


def write_tree(root: Path, rows: str, work: str = WORK) -> Path:
    """A checkout whose two modules have moved."""
    package = root / "src" / "aftermix"
    (package / "new").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "renames").mkdir()
    (package / "__init__.py").write_text("")
    (package / "new" / "__init__.py").write_text('from aftermix.new.shapes import Place\n\n__all__ = ["Place"]\n')
    (package / "new" / "shapes.py").write_text(SHAPES)
    (package / "new" / "work.py").write_text(work)
    (root / "tests" / "test_it.py").write_text(TESTS)
    (root / "renames" / "rows.txt").write_text(rows)
    (root / "pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n")
    return root


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The tree after all rows, and what the script said."""
    root = write_tree(tmp_path_factory.mktemp("tree"), ROWS)
    return root, rename(root, [root / "renames"])


def read(renamed: tuple[Path, Outcome], name: str) -> str:
    return (renamed[0] / name).read_text()


def test_nothing_is_wrong(renamed: tuple[Path, Outcome]) -> None:
    assert renamed[1].plan.errors == []


def test_classes_follow_through_imports_exports_strings_and_prose(renamed: tuple[Path, Outcome]) -> None:
    shapes, work = read(renamed, "src/aftermix/new/shapes.py"), read(renamed, "src/aftermix/new/work.py")
    assert '__all__ = ["TensorKey", "largest"]' in shapes
    assert "class TensorKey:" in shapes
    assert "class Inner(TensorKey):" in shapes
    assert shapes.count("`TensorKey`") == 2
    assert "# One of the `TensorKey`." in work
    assert "import TensorKey as Spot" in work
    assert "    from aftermix.new.shapes import TensorKey\n" in work
    assert 'other: "Other | TensorKey"' in work
    assert 'cast("TensorKey", place)' in work
    assert "shapes.TensorKey().first" in work
    assert read(renamed, "src/aftermix/new/__init__.py").count("TensorKey") == 2


def test_prose_in_backticks_follows(renamed: tuple[Path, Outcome]) -> None:
    text = ":meth:`summarise` says of `options`: `TensorKey.first`, :class:`~aftermix.new.shapes.TensorKey`, not `say`"
    assert text in read(renamed, "src/aftermix/new/shapes.py")


def test_members_follow_their_class_and_no_other(renamed: tuple[Path, Outcome]) -> None:
    shapes, work = read(renamed, "src/aftermix/new/shapes.py"), read(renamed, "src/aftermix/new/work.py")
    assert "    first: int = 1" in shapes
    assert "return self.first + options" in shapes
    assert shapes.count("def summarise(self") == 2
    assert "super().summarise(" in shapes
    assert "    over = 5" in shapes
    assert "    def told(self) -> int:\n        return self.over + largest" in shapes
    assert "Other().over" in work
    assert "Other().told()" in work
    assert 'f"é{place.first} {problems}"' in work


def test_keyword_arguments_follow(renamed: tuple[Path, Outcome]) -> None:
    shapes, work = read(renamed, "src/aftermix/new/shapes.py"), read(renamed, "src/aftermix/new/work.py")
    assert "Spot(first=2).first" in work
    assert "TensorKey(first=1)" in work
    assert "dataclasses.replace(one, first=3)" in work
    assert "resolve(one, one, log=log2)" in work
    assert "partial(resolve, log=log2)" in work
    assert "Inner().summarise(asked=4)" in work, "the override has a parameter of its own"
    assert "super().summarise(options=asked)" in shapes


def test_local_names_follow_scopes(renamed: tuple[Path, Outcome]) -> None:
    work = read(renamed, "src/aftermix/new/work.py")
    assert 'problems}" + "found"' in work
    assert "[*problems, shift(found=1)" in work
    assert "def shift(found: int) -> int:\n        return found + len(total)" in work
    assert "[found for found in range(3)]" in work
    assert "(seen := found) for found" in work
    assert '{"say": 1}' in work
    assert "nonlocal log\n        log += largest" in work
    assert "    return log\n" in work
    assert "def hide(reach: int) -> int:\n    return reach" in work


def test_class_attributes_of_the_same_name_stay(renamed: tuple[Path, Outcome]) -> None:
    assert "    reach = 7\n" in read(renamed, "src/aftermix/new/shapes.py")


def test_tests_follow_patched_names_and_parameters(renamed: tuple[Path, Outcome]) -> None:
    text = read(renamed, "tests/test_it.py")
    assert '"aftermix.new.shapes.TensorKey"' in text
    assert '(shapes, "TensorKey", None)' in text
    assert '(shapes.TensorKey, "summarise", None)' in text
    assert 'parametrize("log"' in text
    assert "def test_it(monkeypatch, log)" in text
    assert "log=log) != " in text
    assert '"Place"' in text, "a string that is data stays"


def test_a_member_that_one_class_alone_has_follows_without_types(renamed: tuple[Path, Outcome]) -> None:
    assert "assert thing.second" in read(renamed, "tests/test_it.py")


def test_a_second_run_changes_nothing(renamed: tuple[Path, Outcome]) -> None:
    root, _ = renamed
    before = {file: file.read_text() for file in root.rglob("*.py")}
    again = rename(root, [root / "renames"])
    assert again.plan.errors == []
    assert len(again.plan.done) >= 7
    assert {file: file.read_text() for file in root.rglob("*.py")} == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("local aftermix.new.work:resolve.found total", "total meets another name total"),
        ("local aftermix.new.work:count.say reach", "meets another name reach"),
        ("name aftermix.new.shapes:Place Other", "defines Other already"),
        ("name aftermix.new.shapes:Absent Present", "defines neither Absent nor Present"),
        ("name aftermix.absent:Place Other", "no module aftermix.absent"),
        ("local aftermix.new.work:resolve.absent present", "found nowhere"),
        ("local aftermix.new.work:absent.found present", "has no absent"),
        ("param aftermix.new.work:resolve.found present", "not a parameter"),
        ("name aftermix.new.shapes:reach say", "say"),
    ],
)
def test_rows_that_cannot_be_applied_are_named_and_nothing_is_written(tmp_path: Path, row: str, message: str) -> None:
    root = write_tree(tmp_path, row)
    outcome = rename(root, [root / "renames"])
    assert any(message in error and row.split()[1] in error for error in outcome.plan.errors)
    assert (root / "src/aftermix/new/work.py").read_text() == WORK


def test_rows_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("name a:B C\nname a:B D\n")
    with pytest.raises(RowError, match=r"rows.txt:1 gives it another new name"):
        read_rows([tmp_path])


def test_a_walrus_binds_outside_the_comprehension() -> None:
    sketch = draw_sketch("def f():\n    [(y := x) for x in z]\n    return y\n", "m", "")
    decided = [(name.text, sketch.resolve(name.text, name.scope)) for name in sketch.names]
    kinds = {(text, sketch.scopes[number].kind) for text, number in decided if number is not None}
    assert {("y", "function"), ("x", "comprehension")} <= kinds
    assert ("y", "comprehension") not in kinds
