"""Commands before a job: `init`, `doctor`, `plan`."""

from __future__ import annotations

from pathlib import Path

import click

from aftermix.cli.options import FILE, NEW_FILE


@click.command()
@click.argument("base")
@click.argument("experts", nargs=-1, required=True)
@click.option("-o", "--output", type=NEW_FILE, default="aftermix.yaml", show_default=True, help="New file.")
def init(base: str, experts: tuple[str, ...], output: Path) -> None:
    """Write a first commented file for EXPERTS of BASE: folders or hub names."""
    from aftermix.api.commands.checks import write_first_file

    click.echo("\n".join(write_first_file(base, experts, output)))


@click.command()
@FILE
def doctor(file: Path) -> int:
    """List every mismatch of what FILE names, each with its remedy; exit code 2 if there is one."""
    from aftermix.api.commands.checks import diagnose_file
    from aftermix.api.commands.texts import describe_diagnosis

    diagnosis = diagnose_file(file)
    click.echo("\n".join(describe_diagnosis(diagnosis)))
    return 2 if diagnosis.problems else 0


@click.command()
@FILE
def plan(file: Path) -> None:
    """Tell disk, memory, evaluations, tokens and time of FILE's job, before it runs."""
    from aftermix.api.commands.checks import estimate_file
    from aftermix.api.commands.texts import describe_estimate

    click.echo("\n".join(describe_estimate(estimate_file(file))))
