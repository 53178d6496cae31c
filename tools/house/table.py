"""Table of all measures, and the command that prints it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .class_names import measure_class_names
from .docstrings import measure_attribute_docstrings, measure_docstrings
from .function_names import measure_found, measure_verbs
from .measure import Measure
from .paragraphs import measure_paragraphs, measure_white_lines
from .sizes import measure_folders, measure_long_files, measure_long_functions
from .source import SourceFile, read_package
from .untyped import measure_untyped


def measure_house(files: Sequence[SourceFile]) -> tuple[Measure, ...]:
    """All measures, in the order of the table."""
    return (
        *measure_folders(files),
        measure_white_lines(files),
        measure_paragraphs(files, over=14),
        measure_paragraphs(files, over=12),
        measure_docstrings(files),
        measure_attribute_docstrings(files),
        *measure_class_names(files),
        measure_verbs(files),
        measure_untyped(files, "jobs"),
        measure_untyped(files, "report", "runs"),
        measure_long_functions(files),
        measure_long_files(files),
        measure_found(files),
    )


def print_table(measures: Sequence[Measure]) -> None:
    width = max(len(measure.label) for measure in measures)
    amount = max(len(measure.text) for measure in measures)
    for measure in measures:
        print(f"{measure.label:{width}}  {measure.text:>{amount}}  {measure.goal}".rstrip())


def print_json(measures: Sequence[Measure]) -> None:
    record = {
        measure.key: {"value": measure.value, "count": measure.count, "total": measure.total} for measure in measures
    }
    print(json.dumps(record, indent=2))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure how the source of a checkout reads.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[2], help="a checkout")
    parser.add_argument("--json", action="store_true", help="print a record instead of the table")
    parser.add_argument("--list", metavar="MEASURE", help="print the places behind a measure, by its key in the record")
    options = parser.parse_args(arguments)

    measures = measure_house(read_package(options.folder))
    keys = [measure.key for measure in measures]
    if options.list and options.list not in keys:
        parser.error(f"--list: expected one of {', '.join(keys)}, found {options.list}")

    if options.list:
        print("\n".join(measures[keys.index(options.list)].places))
    elif options.json:
        print_json(measures)
    else:
        print_table(measures)


if __name__ == "__main__":
    main()
