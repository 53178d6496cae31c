"""Arguments and options that several commands have, and the run folder that they name."""

from __future__ import annotations

from pathlib import Path

import click

from aftermix.errors import printable

FOLDER = click.Path(file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
OUTPUT = click.option("-o", "--output", required=True, type=FOLDER, help="New folder for the result.")
PRIVATE = click.option("--private", is_flag=True, help="Make a new repository private.")


def tell(line: str) -> None:
    """Print a line of a job as it is, on one line."""
    click.echo(printable(line))


def tell_aside(line: str) -> None:
    """The same on standard error, of a job whose result goes to standard output."""
    click.echo(line, err=True)


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
