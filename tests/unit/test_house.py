"""The source keeps its house in order: names, docstrings, folders, verbs, paragraphs and typed records."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.house.measure import Measure
from tools.house.source import read_package
from tools.house.table import measure_house


@pytest.fixture(scope="module")
def house() -> dict[str, Measure]:
    """Measures of this checkout by their keys."""
    return {measure.key: measure for measure in measure_house(read_package(Path(__file__).parents[2]))}


def test_no_name_stands_for_two_classes(house: dict[str, Measure]) -> None:
    assert house["repeated_classes"].places == ()


def test_no_public_class_names_differ_by_a_digit_case_or_s_alone(house: dict[str, Measure]) -> None:
    assert house["similar_classes"].places == ()


def test_no_docstring_opens_with_a_question_word(house: dict[str, Measure]) -> None:
    assert house["question_docstrings"].places == ()


def test_no_docstring_of_an_attribute_opens_with_a_question_word(house: dict[str, Measure]) -> None:
    assert house["question_attributes"].places == ()


def test_no_folder_has_more_than_twelve_files(house: dict[str, Measure]) -> None:
    assert house["full_folders"].places == ()


def test_half_of_the_functions_begin_with_a_verb(house: dict[str, Measure]) -> None:
    assert house["verbs"].value >= 50


def test_bodies_of_fifteen_lines_or_more_have_paragraphs(house: dict[str, Measure]) -> None:
    assert house["paragraphs_15"].value >= 60


def test_jobs_write_typed_records(house: dict[str, Measure]) -> None:
    assert house["untyped_jobs"].count <= 20


def test_the_run_folder_and_its_report_have_typed_records(house: dict[str, Measure]) -> None:
    assert house["untyped_report_runs"].count <= 10


def test_no_file_has_more_than_400_lines(house: dict[str, Measure]) -> None:
    assert house["long_files"].places == ()
