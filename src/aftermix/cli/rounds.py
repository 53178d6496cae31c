"""The command of several jobs in a row: `iterate`."""

from __future__ import annotations

from pathlib import Path

import click

from aftermix.api.job_files import read_job_config
from aftermix.cli.options import AS_JSON, FOLDER, NEW_FILE, choose_run_folder, choose_teller, print_result
from aftermix.command_end import announce_resume, join_command


@click.command()
@click.argument("file", required=False, type=NEW_FILE)
@click.option("-o", "--output", type=FOLDER, help="New run folder.")
@click.option("--resume", type=FOLDER, help="Go on with the run in this folder; FILE may be left out.")
@AS_JSON
def iterate(file: Path | None, output: Path | None, resume: Path | None, as_json: bool) -> None:
    """Train experts, search their merge, and train on from it, as long as FILE's rounds surely gain."""
    run = choose_run_folder(file, output, resume, None)
    config = read_job_config(file, run)
    from aftermix.api.commands.runs import run_rounds
    from aftermix.api.commands.texts import describe_rounds

    command = join_command("aftermix", "iterate", file, "--resume", run)
    with announce_resume(command, kept="finished trainings, trials and rounds", output=run):
        record = run_rounds(config, run, resume=resume is not None, log=choose_teller(as_json))
    print_result(as_json, lambda: {"run": str(run), **record.model_dump()}, lambda: describe_rounds(record, run))
