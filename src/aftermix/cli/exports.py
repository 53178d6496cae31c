"""`export`: a recipe for mergekit, trials for Optuna's dashboard, or a data mixture for a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftermix.cli.options import AS_JSON, NEW_FILE, collect_lines, print_document, tell_aside

TRAINERS = (
    *("megatron", "megatron-bridge", "olmo-core", "interleave"),
    *("llamafactory", "axolotl", "trl", "ms-swift", "streaming", "csv"),
)
"""Names of the trainers; a copy, so that `--help` imports nothing."""


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to", "target", required=True, type=click.Choice(["mergekit", "optuna", *TRAINERS]), help="What is to read it."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New file or folder, by the tool.")
@click.option("--data", type=NEW_FILE, multiple=True, help="File whose `train:` names data; once for each file.")
@click.option("--dataset", metavar="NAME", help="Which mixture, where SOURCE is a file with several.")
@click.option("--tokens", type=float, help="Budget; by default as many as repeat nothing.")
@click.option("--max-epochs", type=float, help="Most repeats of a domain; default 4.")
@click.option("--root", help="Where prefixes, or folders of tokens or streams, lie.")
@click.option("--sequence-length", "sequence_tokens", type=click.IntRange(min=1), help="Tokens of a sample of theirs.")
@AS_JSON
def export(source: Path, target: str, output: Path, as_json: bool, **options: Any) -> None:
    """Write SOURCE for another tool: a recipe, the trials of a search, or the data mixture of a run or file."""
    from aftermix.api.commands.runs import export_ratios, export_recipe, export_trials

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if target in ("mergekit", "optuna"):
        if given:
            raise click.UsageError(f"The options are for the mixtures of trainers; {target} takes none of them.")
        write, kind = (export_recipe, "recipe") if target == "mergekit" else (export_trials, "study")
        notes = write(source, output)
        if as_json:
            print_document({kind: str(output), "notes": notes})
        else:
            click.echo("\n".join([*notes, f"{kind.capitalize()}: {output}"]))
        return

    told: list[str] = []
    log = collect_lines(told, tell_aside if as_json else click.echo)
    files = export_ratios(source, output, to=target, log=log, **given)
    if as_json:
        print_document({"files": [str(file) for file in files], "notes": told})
    else:
        click.echo("\n".join(f"File: {file}" for file in files))
