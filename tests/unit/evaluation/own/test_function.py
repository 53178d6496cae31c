"""A scorer in a file or handed over in Python: found, hashed, run from its own folder, refused by text."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from aftermix.errors import EvaluationError, InputFaultError
from aftermix.evaluation.own.function import GivenFunction, give_function, identify_function, open_function
from aftermix.evaluation.own.items import list_own_items

GOOD = "def items():\n    return {'t': [1, 2, 3]}\n\n\ndef score(model, tokenizer, items):\n    return {}\n"


def write(folder: Path, text: str, name: str = "my_eval.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def hash_file(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_file_is_identified_without_being_run(tmp_path: Path) -> None:
    path = write(tmp_path, "raise SystemExit('must not run')")
    assert identify_function(f"{path}:score") == ("my_eval.py:score", {str(path): hash_file(path)})


def test_files_of_its_folder_that_it_imports_are_hashed_and_the_path_is_put_back(tmp_path: Path) -> None:
    write(tmp_path, "FACTOR = 2\n", "helper_of_mine.py")
    path = write(tmp_path, f"import json\nimport helper_of_mine\n\n{GOOD}")
    before = list(sys.path)
    function = open_function(f"{path}:score")
    helper = tmp_path.resolve() / "helper_of_mine.py"
    assert function.files == {str(path): hash_file(path), str(helper): hash_file(helper)}
    assert function.name == "my_eval.py:score"
    assert sys.path == before


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    text = "import helper_of_mine\n\n\ndef score(model, tokenizer, items):\n    return helper_of_mine.VALUE\n"
    values = []
    for folder in ("one", "two", "one"):
        write(tmp_path / folder, f"VALUE = {folder!r}\n", "helper_of_mine.py")
        function = open_function(f"{write(tmp_path / folder, text)}:score")
        values.append(function.call(function.score, None, None, {}))
    assert values == ["one", "two", "one"]


def test_a_changed_helper_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "import helper_of_mine\n\n\ndef score(m, t, items):\n    return helper_of_mine.VALUE\n")
    helper = write(tmp_path, "VALUE = 1\n", "helper_of_mine.py")
    first = open_function(f"{path}:score")
    helper.write_text("VALUE = 222\n")
    second = open_function(f"{path}:score")
    assert [each.score(None, None, {}) for each in (first, second)] == [1, 222]
    assert first.files != second.files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def items():\n    return {}\n",
            r"expected the function my_eval\.py:score, found no such name\. Define `score",
        ),
        ("score = 3\n", r"expected the function my_eval\.py:score, found a int"),
        (f"{GOOD}items = [1]\n", r"expected the function my_eval\.py:items, found a list"),
        ("def score(:\n", r"my_eval\.py:score: cannot be run: it raised SyntaxError"),
        ("x = 1\nimport not_there_at_all\n", r"raised ModuleNotFoundError: .*\(my_eval\.py, line 2\)"),
        ("raise SystemExit(3)\n", r"cannot be run: it raised SystemExit"),
    ],
)
def test_a_file_without_a_scorer_is_refused(tmp_path: Path, text: str, message: str) -> None:
    before = list(sys.path)
    with pytest.raises(EvaluationError, match=message):
        open_function(f"{write(tmp_path, text)}:score")
    assert sys.path == before


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"expected a file with the function 'score', found none at .*gone\.py"):
        open_function(f"{tmp_path / 'gone.py'}:score")


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("raise ValueError('bad pair')", EvaluationError, r"raised ValueError: bad pair \(my_eval\.py, line 3\)"),
        ("return [][1]", EvaluationError, r"raised IndexError: list index out of range \(my_eval\.py, line 3\)"),
        ("exit()", EvaluationError, r"raised SystemExit"),
        ("open('/nowhere/pairs.csv')", InputFaultError, r"raised FileNotFoundError.*pairs\.csv.*line 3"),
    ],
)
def test_what_it_raises_is_told_with_its_line(tmp_path: Path, body: str, kind: type, message: str) -> None:
    path = write(tmp_path, f"\ndef score(model, tokenizer, items):\n    {body}\n")
    function = open_function(f"{path}:score")
    with pytest.raises(kind, match=message) as refusal:
        function.call(function.score, None, None, {})
    assert refusal.value.problem.where == "my_eval.py:score"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1, 2]", r"my_eval\.py:items: expected ids by task, found a list"),
        ("{}", "found no task"),
        ("{1: [1]}", "expected names of tasks, found 1"),
        ("{'t': 5}", "task 't': expected a list of ids, found a int"),
        ("{'t': 'abc'}", "expected a list of ids, found a str"),
        ("{'t': [1, 2, 1]}", "expected each id once, found '1' twice"),
        ("{'t': [1, '1']}", "found '1' twice"),
        ("{'t': [1.5]}", "expected ids that are texts or whole numbers, found 1.5"),
        ("{'t': [True]}", "found True"),
        ("1 / 0", r"raised ZeroDivisionError: division by zero \(my_eval\.py, line 2\)"),
    ],
)
def test_items_that_are_none_are_refused(tmp_path: Path, returned: str, message: str) -> None:
    path = write(tmp_path, f"def items():\n    return {returned}\n\n\ndef score(m, t, items):\n    return {{}}\n")
    with pytest.raises(EvaluationError, match=message):
        list_own_items(open_function(f"{path}:score"))


def test_tasks_are_chosen_by_name_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path, "def items():\n    return {'pairs': [1], 'words': ['x']}\n\n\ndef score(m, t, i):\n    pass\n"
    )
    function = open_function(f"{path}:score")
    assert list_own_items(function) == {"pairs": {"1": 1}, "words": {"x": "x"}}
    assert list(list_own_items(function, ["words"])) == ["words"]
    with pytest.raises(EvaluationError, match=r"found 'pair'. Did you mean pairs\?"):
        list_own_items(function, ["pair"])


def test_a_function_that_was_handed_over_is_found_by_its_key_alone() -> None:
    def score(model: object, tokenizer: object, items: object) -> object:
        return items

    with give_function(GivenFunction(score, {"t": [1, 2]})) as key:
        function = open_function(key)
        assert key == f"callable {__name__}:score"
        assert list_own_items(function) == {"t": {"1": 1, "2": 2}}
        assert function.files == {str(Path(__file__)): hash_file(Path(__file__))}
    with pytest.raises(EvaluationError, match=r"in Python \(.*test_function:score\), found none. Go on from"):
        open_function(key)


def test_a_function_that_was_typed_in_is_hashed_by_its_code() -> None:
    spaces: list[dict[str, object]] = [{}, {}, {}]
    for space, body in zip(spaces, ("1", "2", "1"), strict=True):
        exec(compile(f"\ndef score(model, tokenizer, items):\n    return {body}\n", "<stdin>", "exec"), space)  # noqa: S102
    hashes = []
    for space in spaces:
        with give_function(GivenFunction(space["score"], None)) as key:  # type: ignore[arg-type]
            hashes.append(dict(open_function(key).files))
    assert hashes[0] == hashes[2] != hashes[1]
