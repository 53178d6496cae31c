"""Commands that look at vectors: `inspect`, `analyze`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from aftermix.cli.options import NEW_FILE, PREFIX

TARGET = click.argument("target", metavar="FILE|MODEL")
BASE = click.option("--base", help="Folder or hub name of MODEL's base; FILE names its own.")
NUMBERS = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write all numbers into FILE; alone, or with -, print them in place of the tables.",
)
STANDARD_OUTPUT = Path("-")
PICTURE = click.option("--picture", type=NEW_FILE, help="Draw them here: .svg or .png.")


@click.command()
@TARGET
@BASE
@NUMBERS
@PICTURE
@PREFIX
def inspect(
    target: str, base: str | None, json_file: Path | None, picture: Path | None, prefix: tuple[str, ...]
) -> None:
    """Show norms, cosines and untouched tensors of the vectors of FILE, or of MODEL minus its base."""
    from aftermix.api.commands.texts import print_geometry
    from aftermix.api.commands.vectors import inspect_vectors

    geometry, name = inspect_vectors(target, base=base, json=_choose_sink(json_file), picture=picture, prefix=prefix)
    if json_file != STANDARD_OUTPUT:
        print_geometry(geometry, base=name)


@click.command()
@TARGET
@BASE
@NUMBERS
@PICTURE
@PREFIX
@click.option("--curvature", is_flag=True, help="Instead, derivatives of each domain's loss at FILE's base.")
@click.option("--robustness", is_flag=True, help="Instead, losses around FILE's base: how its vectors bear merging.")
def analyze(
    target: str,
    base: str | None,
    json_file: Path | None,
    picture: Path | None,
    curvature: bool,
    robustness: bool,
    prefix: tuple[str, ...],
) -> None:
    """Fit Laplace and Gaussian to the entries of the vectors of FILE, or of MODEL minus its base."""
    from aftermix.api.commands.texts import print_derivatives, print_fits, print_robustness
    from aftermix.api.commands.vectors import fit_distributions, forecast_robustness, measure_derivatives

    if curvature and robustness:
        raise click.UsageError("--curvature and --robustness are two analyses: give one of them.")
    sink, prints_tables = _choose_sink(json_file), json_file != STANDARD_OUTPUT
    if (curvature or robustness) and prefix:
        raise click.UsageError("--prefix is for MODEL, and these analyses need a FILE: write `prefix` into it.")
    if robustness:
        findings, label = forecast_robustness(target, base=base, json=sink, picture=picture)
        if prints_tables:
            print_robustness(findings, base=label)
        return
    if curvature:
        derivatives, label = measure_derivatives(target, base=base, json=sink, picture=picture)
        if prints_tables:
            print_derivatives(derivatives, base=label)
        return

    fits, name = fit_distributions(target, base=base, json=sink, picture=picture, prefix=prefix)
    if prints_tables:
        print_fits(fits, base=name)


def _choose_sink(json_file: Path | None) -> Path | Callable[[str], object] | None:
    return click.echo if json_file == STANDARD_OUTPUT else json_file
