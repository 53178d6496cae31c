"""Commands before a job: `init`, `doctor`, `plan`."""

from __future__ import annotations

from pathlib import Path

import click

from aftermix.cli.options import AS_JSON, FILE, FOLDER, NEW_FILE, print_result


@click.command()
@click.argument("base")
@click.argument("experts", nargs=-1, required=True)
@click.option("-o", "--output", type=NEW_FILE, default="aftermix.yaml", show_default=True, help="New file.")
@AS_JSON
def init(base: str, experts: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Write a first commented file for EXPERTS of BASE: folders or hub names."""
    from aftermix.api.commands.checks import write_first_file

    lines = write_first_file(base, experts, output)
    print_result(as_json, lambda: {"file": str(output)}, lambda: lines)


@click.command()
@FILE
@AS_JSON
def doctor(file: Path, as_json: bool) -> int:
    """List every mismatch of what FILE names, each with its remedy; exit code 2 if there is one."""
    from aftermix.api.commands.checks import diagnose_file
    from aftermix.api.commands.documents import build_diagnosis
    from aftermix.api.commands.texts import describe_diagnosis

    diagnosis = diagnose_file(file)
    print_result(as_json, lambda: build_diagnosis(diagnosis), lambda: describe_diagnosis(diagnosis))
    return 2 if diagnosis.problems else 0


@click.command()
@FILE
@click.option(
    "--hardware",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML file of stated machines: plan by arithmetic, from the base's config.json alone.",
)
@click.option("--from", "source", type=FOLDER, help="Earlier run that the search or mixture will start from.")
@AS_JSON
def plan(file: Path, hardware: Path | None, source: Path | None, as_json: bool) -> None:
    """Tell disk, memory, evaluations, tokens and time of FILE's job, before it runs."""
    from aftermix.api.commands.checks import estimate_file, estimate_scale
    from aftermix.api.commands.documents import build_estimate, build_scale_plan
    from aftermix.api.commands.scale_text import describe_scale_plan
    from aftermix.api.commands.texts import describe_estimate

    if hardware is not None and source is not None:
        raise click.UsageError("--hardware reckons without runs: leave it or --from out.")
    if hardware is not None:
        planned = estimate_scale(file, hardware)
        print_result(as_json, lambda: build_scale_plan(planned), lambda: describe_scale_plan(planned))
        return
    needs = estimate_file(file, source=source)
    print_result(as_json, lambda: build_estimate(needs), lambda: describe_estimate(needs))
