"""Arguments and options that several commands have, and the run folder that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click

from aftermix.errors import printable

FOLDER = click.Path(file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
OUTPUT = click.option("-o", "--output", required=True, type=FOLDER, help="New folder for the result.")
PREFIX = click.option(
    "--prefix",
    multiple=True,
    metavar="OWN=BASE",
    help="Prefix of the model's tensor names, and the base's; repeatable.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and all else on stderr.")
PRIVATE = click.option("--private", is_flag=True, help="Make a new repository private.")


def tell(line: str) -> None:
    """Print a line of a job as it is, on one line."""
    click.echo(printable(line))


def tell_aside(line: str) -> None:
    """Print a line of a job on standard error, beside a result on standard output."""
    click.echo(line, err=True)


def choose_teller(as_json: bool) -> Callable[[str], None]:
    """The way for a job's own lines: beside the document of its result, they are no part of standard output."""
    return tell_aside if as_json else tell


def collect_lines(lines: list[str], then: Callable[[str], object]) -> Callable[[str], None]:
    """A teller that keeps each line in `lines` as well."""

    def collect(line: str) -> None:
        lines.append(line)
        then(line)

    return collect


def print_document(document: Mapping[str, object]) -> None:
    """Print one document of JSON, in ASCII."""
    from aftermix.files import format_json

    click.echo(format_json(document, escaped=True).rstrip())


def print_result(
    as_json: bool, document: Callable[[], Mapping[str, object]], lines: Callable[[], Iterable[str]]
) -> None:
    """Print a result: its document, or its lines."""
    if as_json:
        print_document(document())
    else:
        for line in lines():
            click.echo(line)


def choose_run_folder(file: Path | None, output: Path | None, resume: Path | None, source: Path | None) -> Path:
    """Folder of the run that the options name: a new one or an earlier one."""
    if (output is None) == (resume is None):
        raise click.UsageError("Name one of -o/--output (a new run) and --resume (an earlier one).")
    if resume is not None and source is not None:
        raise click.UsageError("--from starts a new run: name it with -o/--output.")
    run = output or resume
    if run is None or (file is None and resume is None):
        raise click.UsageError("A new run needs FILE.")
    return run
