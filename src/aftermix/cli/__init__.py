"""The command line: parse, call a function of `aftermix.api`, print. No logic."""

from __future__ import annotations

import atexit
import gc
import sys

import click

from aftermix.cli.before import doctor, init, plan
from aftermix.cli.exports import TRAINERS, export
from aftermix.cli.models import average, calibrate, diff, merge, push, train
from aftermix.cli.rounds import iterate
from aftermix.cli.runs import compare, evaluate, landscape, mixture, predict, report, search
from aftermix.cli.vectors import analyze, inspect
from aftermix.command_end import run_guarded

__all__ = ["TRAINERS", "cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aftermix")
def cli() -> None:
    """Train one expert per dataset. Decide the mixture afterwards."""
    from aftermix import progress

    click.get_current_context().with_resource(progress.shown())


for command in (
    *(init, doctor, plan),
    *(train, average, diff, inspect, analyze, calibrate, merge, push, export),
    *(search, mixture, iterate, evaluate, predict, compare, report, landscape),
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every error that a user can mend is one message and an exit code."""
    # Modules are no garbage: looking for it while they load, and once more at exit, is a third of the start-up.
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)
    sys.exit(run_guarded(lambda: cli.main(standalone_mode=False)))
