"""Measures of small sources, written out here."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent, indent

import pytest
from tools.house.class_names import group_similar, measure_class_names, split_words
from tools.house.docstrings import measure_attribute_docstrings, measure_docstrings
from tools.house.function_names import begins_with_verb, measure_found, measure_verbs, read_verbs
from tools.house.paragraphs import measure_paragraphs, measure_white_lines, read_body
from tools.house.sizes import measure_folders, measure_long_files, measure_long_functions
from tools.house.source import SourceFile, read_package
from tools.house.table import main
from tools.house.untyped import measure_untyped


def source(text: str, path: str = "jobs/merge.py") -> SourceFile:
    return SourceFile(path, dedent(text))


def function(body: str) -> SourceFile:
    return source("def f(a, b):\n" + indent(dedent(body).strip("\n"), "    ") + "\n")


def has_break(body: str) -> bool:
    file = function(body)
    return read_body(file, file.functions[0]).has_break()


# Folders and sizes


def test_folders_count_every_file_but_init() -> None:
    files = [SourceFile(f"jobs/m{i}.py", "") for i in range(13)] + [SourceFile("jobs/__init__.py", "")]
    fullest, full = measure_folders([*files, SourceFile("cli.py", "")])
    assert fullest.count == 13
    assert full.places == ("jobs: 13",)
    assert measure_folders(files[1:])[1].count == 0


def test_long_functions_and_files_are_those_above_the_limit() -> None:
    long, short = ("def f():\n" + "    x = 1\n" * count for count in (40, 39))
    assert measure_long_functions([source(long), source(short)]).places == ("jobs/merge.py:1 f: 41",)
    assert measure_long_files([source("x = 1\n" * 401), source("x = 1\n" * 400, "cli.py")]).count == 1


# Paragraphs


@pytest.mark.parametrize("between", ["", "# why", "\n# why\n"])
def test_a_blank_line_or_a_comment_between_two_and_two_statements_is_a_break(between: str) -> None:
    assert has_break(f"a = 1\nb = 2\n{between}\nc = 3\nreturn c")


@pytest.mark.parametrize(
    "body",
    [
        "a = 1\nb = 2\nc = 3\nreturn c",
        "a = 1\n\nb = 2\nc = 3\nreturn c",
        "a = 1\nb = 2\nc = 3\n\nreturn c",
        "a = 1\nb = 2  # why\nc = 3\nreturn c",
        '"""Doc.\n\nMore."""\na = 1\n\nb = 2\nc = 3',
        '"""Doc."""\n\na = 1\nb = 2\nc = 3\nd = 4',
        'a = 1\nb = """\n\n# text\n"""\nc = 3\nd = 4',
        "a = 1\nb = g(\n    # why\n    a,\n)\nc = 3\nd = 4",
        "a = 1\nif (\n    a\n    # why\n    and b\n):\n    c = 3\n    d = 4",
    ],
)
def test_other_blank_lines_and_comments_are_no_break(body: str) -> None:
    assert not has_break(body)


@pytest.mark.parametrize(
    "body",
    [
        "for a in b:\n    c = 1\n\n    d = 2\n    e = 3",
        "a = 1\nb = 2\n\nif a:\n    return b",
        "try:\n    a = 1\n    b = 2\nexcept ValueError:\n    c = 3\n\n    d = 4\n    e = 5",
        "match a:\n    case 1:\n        b = 1\n\n        c = 2\n        d = 3",
    ],
)
def test_nested_statements_count(body: str) -> None:
    assert has_break(body)


def test_the_inside_of_a_nested_function_is_its_own() -> None:
    body = "def g():\n    a = 1\n    b = 2\n\n    c = 3\n    return c\nreturn g"
    file = function(body)
    outer, inner = (read_body(file, node) for node in file.functions)
    assert not outer.has_break()
    assert inner.has_break()


def test_the_length_of_a_body_leaves_out_its_docstring() -> None:
    file = function('"""Doc.\n\nMore.\n"""\n\n# why\na = 1\n\nreturn a')
    body = read_body(file, file.functions[0])
    assert body.length == 4
    assert len(body.white) == 2


def test_bodies_without_statements_have_no_lines() -> None:
    file = source('def f():\n    """Doc."""\n\n\ndef g(): ...\n')
    assert [read_body(file, node).length for node in file.functions] == [0, 1]


def test_white_lines_are_counted_once_in_nested_functions() -> None:
    measure = measure_white_lines([function("def g():\n    a = 1\n\n    return a\nreturn g")])
    assert (measure.count, measure.total) == (1, 5)


def test_paragraphs_are_asked_of_long_bodies_only() -> None:
    long = "\n".join(f"a{i} = {i}" for i in range(15))
    broken = "a = 1\nb = 2\n\n" + "\n".join(f"a{i} = {i}" for i in range(12))
    measure = measure_paragraphs([function(long), function(broken), function("a = 1")], over=14)
    assert (measure.count, measure.total, measure.value) == (1, 2, 50.0)
    assert measure.places == ("jobs/merge.py:1 f",)
    assert measure_paragraphs([], over=14).value == 0


# Docstrings


def test_docstrings_that_open_with_a_question_word() -> None:
    file = source(
        '''\
        """What a merge is."""
        class A:
            """`Whether` it is so."""
            def f(self):
                """However often."""
            async def g(self):
                """
                Who knows.
                """
        '''
    )
    measure = measure_docstrings([file])
    assert (measure.count, measure.total) == (3, 4)
    assert [place.partition(" ")[0] for place in measure.places] == [f"jobs/merge.py:{line}" for line in (1, 3, 7)]


def test_docstrings_of_attributes() -> None:
    file = source(
        '''\
        """Module."""
        LIMIT = 1
        """Why one."""
        class A:
            """Class."""
            x: int
            """How many."""
            y: int = 1
            """Number of them."""
        '''
    )
    measure = measure_attribute_docstrings([file])
    assert (measure.count, measure.total) == (2, 3)


# Names of classes


def test_words_of_names() -> None:
    assert split_words("Pool") == ["Pool"]
    assert split_words("SAM") == ["SAM"]
    assert split_words("SAMOptimizer") == ["SAM", "Optimizer"]
    assert split_words("Int8") == ["Int"]
    assert split_words("MergeRecipe") == ["Merge", "Recipe"]


def test_names_apart_by_a_digit_case_or_s() -> None:
    names = ["Point", "Points", "Int4Span", "Int8Span", "LoRA", "Lora", "Loss", "Plan"]
    assert group_similar(names) == [("Int4Span", "Int8Span"), ("LoRA", "Lora"), ("Point", "Points")]


def test_class_names() -> None:
    files = [source("class Plan: ...\nclass _Own: ...\nclass MergePlan: ..."), source("class Plan: ...", "cli.py")]
    one_word, repeated, similar = measure_class_names(files)
    assert (one_word.count, one_word.total) == (2, 3)
    assert repeated.places == ("jobs/merge.py:1 Plan, cli.py:1 Plan",)
    assert similar.count == 0


# Names of functions


@pytest.mark.parametrize("name", ["open_merger", "_read", "fit", "refuse_plain_text", "score_items", "order_by_cost"])
def test_names_that_begin_with_a_verb(name: str) -> None:
    assert begins_with_verb(name, read_verbs())


@pytest.mark.parametrize(
    "name", ["merger_of", "told", "found", "score", "plan", "_order", "score_of", "plan_lines", "kept", "_", "opens"]
)
def test_names_that_do_not(name: str) -> None:
    assert not begins_with_verb(name, read_verbs())


def test_the_verbs_are_written_once() -> None:
    verbs = read_verbs()
    assert not [verb for verb in verbs if f"{verb}_" in verbs]
    assert all(verb.removesuffix("_").isalpha() and verb.islower() for verb in verbs)


def test_dunders_properties_predicates_and_merge_rules_need_no_verb() -> None:
    text = """\
        class A:
            def __init__(self): ...
            @property
            def size(self): ...
            @functools.cached_property
            def cost(self): ...
            @size.setter
            def size(self, value): ...
            def is_sound(self): ...
            def _has_rows(self): ...
            def fits(self) -> bool: ...
            def told(self): ...
            def read(self): ...
        """
    measure = measure_verbs([source(text)])
    assert (measure.count, measure.total) == (1, 2)
    assert measure.places == ("jobs/merge.py:12 told",)
    rule = "def disjoint_mean(): ..."
    assert measure_verbs([source(rule, "merging/rules/inter.py")]).total == 0
    assert measure_verbs([source(rule, "merging/blocks.py")]).total == 1


def test_commands_need_no_verb_in_the_cli_alone() -> None:
    text = "@cli.command()\ndef mixture(): ...\n@click.group\ndef cli(): ...\ndef resumable(): ..."
    assert measure_verbs([source(text, "cli.py")]).total == 1
    assert measure_verbs([source(text, "cli/runs.py")]).total == 1
    assert measure_verbs([source(text)]).total == 3


def test_found_is_counted_where_it_is_assigned() -> None:
    text = "found = 1\nfound: int = 2\nfor found in x: print(found)\nif (found := 3): ...\na, found = 1, 2\nf(found=1)"
    assert measure_found([source(text)]).count == 5


# Untyped records


def test_untyped_mappings() -> None:
    text = '''\
        """Not dict[str, Any] in a docstring."""
        def f(a: dict[str, Any], b: typing.Mapping[str, object], c: list[dict[str, typing.Any]]) -> "dict[str, Any]":
            d = dict[str, Any](a)
            e: dict[str, int] = {}
            g: dict[int, Any] = {}
        '''
    assert measure_untyped([source(text)], "jobs").count == 5
    assert measure_untyped([source(text)], "report", "runs").count == 0


def test_uses_of_aliases_count() -> None:
    files = [
        source("Fields = dict[str, Any]\nRows: TypeAlias = list[Fields]\nOther = dict[str, int]", "files.py"),
        source("from aftermix.files import Fields, Other, Rows as R\ndef f(a: Fields, b: R, c: Other): ..."),
        source("from aftermix import files\ndef f(a: files.Fields, b: files.Other): ...", "jobs/a.py"),
        source("from aftermix.jobs.merge import Fields\ndef f(a: Fields): ...", "jobs/b.py"),
        source("def f(Fields: int): return Fields", "jobs/c.py"),
    ]
    measure = measure_untyped(files, "jobs")
    assert [place.rpartition(" ")[2] for place in measure.places] == ["Fields", "R", "files.Fields", "Fields"]


# The command


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "src" / "aftermix"
    package.mkdir(parents=True)
    (package / "cli.py").write_text("def told():\n    return 1\n", encoding="utf-8")
    return tmp_path


def test_table_record_and_list(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(checkout)])
    assert "functions that begin with a verb" in capsys.readouterr().out
    main([str(checkout), "--json"])
    assert json.loads(capsys.readouterr().out)["verbs"] == {"value": 0.0, "count": 0, "total": 1}
    main([str(checkout), "--list", "verbs"])
    assert capsys.readouterr().out == "cli.py:1 told\n"


def test_folders_without_source_and_unknown_measures_are_refused(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected Python files, found none"):
        read_package(tmp_path / "empty")
    with pytest.raises(SystemExit):
        main([str(checkout), "--list", "nouns"])
