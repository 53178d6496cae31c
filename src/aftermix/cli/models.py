"""Commands that write models and vectors: `train`, `average`, `diff`, `calibrate`, `merge`, `push`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aftermix.cli.options import (
    AS_JSON,
    FILE,
    OUTPUT,
    PREFIX,
    PRIVATE,
    choose_teller,
    collect_lines,
    print_document,
    print_result,
    tell,
)
from aftermix.command_end import announce_resume, join_command

if TYPE_CHECKING:
    from aftermix.config import Config


@click.command()
@FILE
@OUTPUT
@AS_JSON
def train(file: Path, output: Path, as_json: bool) -> None:
    """Train one expert per dataset of FILE from its base, each a model folder in the output folder."""
    from aftermix.api.work import train as job

    command = join_command("aftermix", "train", file, "-o", output)
    with announce_resume(command, kept="finished experts and resume points", output=output):
        folders = job(file, output=output)
    experts = {name: str(folder) for name, folder in folders.items()}
    print_result(as_json, lambda: {"experts": experts}, lambda: [f"{name}: {path}" for name, path in experts.items()])


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@OUTPUT
@click.option("--last", type=click.IntRange(min=1), help="Take this many of the last checkpoints; default all.")
@click.option("--best", type=click.IntRange(min=1), help="Take this many of the best on the select items of --by.")
@click.option("--by", type=click.Path(dir_okay=False, path_type=Path), help="File with the `evaluate:` of --best.")
@click.option("--decay", type=click.Choice(["linear", "cosine", "1-sqrt"]), help="Weigh as this decay of the rate.")
@click.option("--min-rate", type=click.FloatRange(0, 1), help="Rate at the end of --decay, of the peak; default 0.")
@click.option("--names", type=click.Path(dir_okay=False, path_type=Path), help="File with `tensor_names:`, of DCP.")
@click.option("--as-dcp", is_flag=True, help="Write a distributed checkpoint, under the names that training saved.")
@AS_JSON
def average(checkpoints: tuple[Path, ...], output: Path, as_json: bool, **options: Any) -> None:
    """Merge CHECKPOINTS of one training run (their folder, or several model folders) into a model folder."""
    from aftermix.api.commands.documents import build_average
    from aftermix.api.commands.models import average_checkpoints

    if options["last"] is not None and options["best"] is not None:
        raise click.UsageError("Name one of --last and --best.")
    folder = average_checkpoints(checkpoints, output, log=choose_teller(as_json), **options)
    print_result(as_json, lambda: build_average(folder), lambda: [f"Model: {folder}"])


@click.command()
@click.argument("expert")
@click.option("--base", required=True, help="Folder or hub name of the model that EXPERT was trained from.")
@OUTPUT
@click.option("--dtype", type=click.Choice(["bfloat16", "int8"]), default="bfloat16", show_default=True)
@PREFIX
@AS_JSON
def diff(expert: str, base: str, output: Path, dtype: Any, prefix: tuple[str, ...], as_json: bool) -> None:
    """Store EXPERT minus its base as a vector folder, usable wherever a model of that base is."""
    from aftermix.api.commands.documents import build_vector
    from aftermix.api.commands.models import store_vector
    from aftermix.api.commands.texts import describe_diff

    facts = store_vector(expert, base=base, output=output, dtype=dtype, prefix=prefix)
    print_result(as_json, lambda: build_vector(facts, output), lambda: describe_diff(facts, output))


@click.command()
@FILE
@OUTPUT
@AS_JSON
def calibrate(file: Path, output: Path, as_json: bool) -> None:
    """Measure what the linear layers of FILE's experts are fed on their calibration text; `merge` can use it."""
    from aftermix.api.commands.documents import build_statistics
    from aftermix.api.commands.models import measure_statistics
    from aftermix.api.commands.texts import describe_calibration

    notes = measure_statistics(file, output)
    if as_json:
        print_document(build_statistics(notes, output))
        return
    for line in describe_calibration(notes):
        tell(line)
    click.echo(f"Statistics: {output}")


@click.command()
@click.argument("file", metavar="FILE|RUN", type=click.Path(path_type=Path))
@OUTPUT
@click.option("--weights", metavar="NAME=NUMBER,...", help="Of a RUN: merge weights; a vector left out weighs 0.")
@click.option("--push", "repo_id", metavar="REPO_ID", help="Upload the result to the hub under this name.")
@PRIVATE
@click.option("--check", is_flag=True, help="Hold every block of an exclusive merge against a second computation.")
@click.option("--as-adapter", is_flag=True, help="Of LoRA adapters: write one adapter in place of a model.")
@click.option("--rank", type=click.IntRange(min=1), help="Of --as-adapter: the highest; default all of the vectors'.")
@AS_JSON
def merge(
    file: Path, output: Path, weights: str | None, repo_id: str | None, private: bool, as_json: bool, **options: Any
) -> None:
    """Merge the vectors of FILE, a recipe of aftermix or of mergekit, or of a search's RUN into a model folder."""
    from aftermix.api.commands.models import configure_merge, refuse_upload, upload_model

    if private and repo_id is None:
        raise click.UsageError("--private is for --push REPO_ID.")
    _refuse_merge_options(**options)

    # An upload that could not succeed is refused before the merge and its libraries.
    config = configure_merge(file, weights=weights)
    if repo_id is not None:
        refuse_upload(repo_id)

    notes: list[str] = []
    adapter = _write_merge(config, output, log=collect_lines(notes, choose_teller(as_json)), **options)
    if not as_json:
        click.echo(f"Model: {output}" if adapter is None else f"Adapter: {output}")

    address = None
    if repo_id is not None:
        command = _join_push(output, repo_id, private=private)
        with announce_resume(command, kept="the model", output=output, has_begun=True):
            address = upload_model(output, repo_id, private=private)
        if not as_json:
            click.echo(f"Hub: {address}")
    if as_json:
        print_document({"model": str(output), "hub": address, "notes": notes, "adapter": adapter})


def _refuse_merge_options(*, check: bool, as_adapter: bool, rank: int | None) -> None:
    if rank is not None and not as_adapter:
        raise click.UsageError("--rank is for --as-adapter.")
    if check and as_adapter:
        raise click.UsageError("--check is for a model: leave out one of --check and --as-adapter.")


def _write_merge(
    config: Config, output: Path, *, log: Callable[[str], object], check: bool, as_adapter: bool, rank: int | None
) -> dict[str, Any] | None:
    """Write the merge; what an adapter's record says, None of a model."""
    from aftermix.api.commands.models import write_adapter, write_merge

    if as_adapter:
        return write_adapter(config, output, rank=rank, log=log).model_dump()
    write_merge(config, output, log=log, check=check)
    return None


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo_id")
@PRIVATE
@AS_JSON
def push(folder: Path, repo_id: str, private: bool, as_json: bool) -> None:
    """Upload the model of FOLDER (a model or run folder), with its card, to the hub as REPO_ID."""
    from aftermix.api.commands.models import upload_model

    with announce_resume(_join_push(folder, repo_id, private=private), kept="the model", output=folder):
        address = upload_model(folder, repo_id, private=private)
    print_result(as_json, lambda: {"hub": address}, lambda: [f"Hub: {address}"])


def _join_push(folder: Path, repo_id: str, *, private: bool) -> str:
    return join_command("aftermix", "push", folder, repo_id, "--private" if private else None)
