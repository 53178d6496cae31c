"""The command line: parse, call a job, print. No logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aftermix.errors import AftermixError

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
OUTPUT = click.option("-o", "--output", required=True, type=FOLDER, help="New folder for the result.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aftermix")
def cli() -> None:
    """Train one expert per dataset. Decide the mixture afterwards."""


@cli.command()
@FILE
def doctor(file: Path) -> int:
    """List every mismatch of what FILE names, each with its remedy; exit code 2 if there is one."""
    from aftermix.config import load_config
    from aftermix.jobs.doctor import doctor as job
    from aftermix.jobs.printing import diagnosis_lines

    found = job(load_config(file))
    click.echo("\n".join(diagnosis_lines(found)))
    return 2 if found.problems else 0


@cli.command()
@FILE
def plan(file: Path) -> None:
    """Tell disk, memory, evaluations, tokens and time of FILE's search, before it runs."""
    from aftermix.config import load_config
    from aftermix.jobs.plan import plan as job
    from aftermix.jobs.printing import plan_lines

    click.echo("\n".join(plan_lines(job(load_config(file)))))


@cli.command()
@FILE
@OUTPUT
def train(file: Path, output: Path) -> None:
    """Train one expert per dataset of FILE from its base, each a model folder in the output folder."""
    from aftermix.config import load_config
    from aftermix.jobs.train import train as job

    for name, folder in job(load_config(file), output).items():
        click.echo(f"{name}: {folder}")


@cli.command()
@FILE
@OUTPUT
def merge(file: Path, output: Path) -> None:
    """Merge the vectors of FILE at their weights into a model folder."""
    from aftermix.config import load_config
    from aftermix.jobs.merge import merge as job

    click.echo(f"Model: {job(load_config(file), output)}")


@cli.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=FOLDER, help="New run folder.")
@click.option("--resume", type=FOLDER, help="Go on with the run in this folder; FILE may be left out.")
@click.option("--from", "source", type=FOLDER, help="Start from this run's stored scores, under FILE's objective.")
def search(file: Path | None, output: Path | None, resume: Path | None, source: Path | None) -> None:
    """Search the merge weights of FILE by measured score; write the best model and a report."""
    from aftermix.config import load_config
    from aftermix.jobs.run_folder import read_run_config
    from aftermix.jobs.search import search as job
    from aftermix.report.console import print_result

    if (output is None) == (resume is None):
        raise click.UsageError("Name one of -o/--output (a new run) and --resume (an earlier one).")
    if resume is not None and source is not None:
        raise click.UsageError("--from starts a new run: name it with -o/--output.")
    run = output or resume
    if run is None or (file is None and resume is None):
        raise click.UsageError("A new run needs FILE.")
    config = load_config(file) if file is not None else read_run_config(run)
    try:
        job(config, run, resume=resume is not None, source=source)
    except KeyboardInterrupt:
        command = f"aftermix search {f'{file} ' if file else ''}--resume {run}"
        click.echo(f"\nInterrupted. Every finished trial is kept; go on with:\n  {command}", err=True)
        raise
    print_result(run)


@cli.command()
@FILE
@click.option("--split", type=click.Choice(["search", "select", "test"]), default="test", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def evaluate(file: Path, split: Any, as_json: bool) -> None:
    """Score the merge of FILE at its own weights (without vectors: its base)."""
    from aftermix.config import load_config
    from aftermix.jobs.evaluate import evaluate as job
    from aftermix.jobs.printing import score_lines

    summary = job(load_config(file), split=split)
    click.echo(json.dumps(summary, indent=2) if as_json else "\n".join(score_lines(summary)))


@cli.command()
@click.argument("run", type=FOLDER)
def report(run: Path) -> None:
    """Write RUN/report.html from the files of the run, finished or not."""
    from aftermix.report.page import write_report

    click.echo(f"Report: {write_report(run)}")


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
