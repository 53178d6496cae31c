"""The command line: parse, call a job, print. No logic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aftermix.errors import AftermixError

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
OUTPUT = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="New folder for the result."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aftermix")
def cli() -> None:
    """Train one expert per dataset. Decide the mixture afterwards."""


@cli.command()
@FILE
@OUTPUT
def merge(file: Path, output: Path) -> None:
    """Merge the vectors of FILE at their weights into a model folder."""
    from aftermix.config import load_config
    from aftermix.jobs.merge import merge as job

    click.echo(f"Model: {job(load_config(file), output)}")


def main() -> None:
    """Run the command line; every error that a user can mend is one message and an exit code."""
    sys.exit(_guarded(lambda: cli.main(standalone_mode=False)))


def _guarded(run: Callable[[], Any]) -> int:
    try:
        result = run()
    except AftermixError as error:
        click.echo(f"aftermix: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("aftermix: interrupted", err=True)
        return 130
    return result if isinstance(result, int) else 0
