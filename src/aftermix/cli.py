"""The command line: parse, call a job, print. No logic."""

from __future__ import annotations

import atexit
import gc
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from aftermix.api.job_files import prefetch_weights, read_job_config
from aftermix.command_end import announce_resume, join_command, list_options, run_guarded
from aftermix.errors import printable

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
OUTPUT = click.option("-o", "--output", required=True, type=FOLDER, help="New folder for the result.")
TARGET = click.argument("target", metavar="FILE|MODEL")
BASE = click.option("--base", help="Folder or hub name of MODEL's base; FILE names its own.")
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NUMBERS = click.option("--json", "json_file", type=NEW_FILE, help="Write all numbers here.")
PICTURE = click.option("--picture", type=NEW_FILE, help="Draw them here: .svg or .png.")
MAYBE_FILE = click.argument("file", required=False, type=NEW_FILE)
NEW_RUN = click.option("-o", "--output", type=FOLDER, help="New run folder.")
RESUME = click.option("--resume", type=FOLDER, help="Go on with the run in this folder; FILE may be left out.")
TRAINERS = ("megatron", "interleave", "llamafactory", "axolotl", "trl", "streaming", "csv")
PRIVATE = click.option("--private", is_flag=True, help="Make a new repository private.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aftermix")
def cli() -> None:
    """Train one expert per dataset. Decide the mixture afterwards."""


@cli.command()
@click.argument("base")
@click.argument("experts", nargs=-1, required=True)
@click.option("-o", "--output", type=NEW_FILE, default="aftermix.yaml", show_default=True, help="New file.")
def init(base: str, experts: tuple[str, ...], output: Path) -> None:
    """Write a first commented file for EXPERTS of BASE: folders or hub names."""
    from aftermix.jobs.init.command import init as job

    click.echo("\n".join(job(base, experts, output)))


@cli.command()
@FILE
def doctor(file: Path) -> int:
    """List every mismatch of what FILE names, each with its remedy; exit code 2 if there is one."""
    from aftermix.mergekit.reading import load_partial_recipe

    usable = load_partial_recipe(file)
    prefetch_weights(usable.config)
    from aftermix.jobs.doctor.command import doctor as job
    from aftermix.jobs.terminal_text import describe_diagnosis

    diagnosis = job(usable.config, faults=usable.problems, written=usable.written)
    click.echo("\n".join(describe_diagnosis(diagnosis)))
    return 2 if diagnosis.problems else 0


@cli.command()
@FILE
def plan(file: Path) -> None:
    """Tell disk, memory, evaluations, tokens and time of FILE's job, before it runs."""
    from aftermix.config import load_config
    from aftermix.jobs.plan import plan as job
    from aftermix.jobs.terminal_text import describe_estimate

    click.echo("\n".join(describe_estimate(job(load_config(file)))))


@cli.command()
@FILE
@OUTPUT
def train(file: Path, output: Path) -> None:
    """Train one expert per dataset of FILE from its base, each a model folder in the output folder."""
    from aftermix.config import load_config
    from aftermix.jobs.train.command import train as job

    command = join_command("aftermix", "train", file, "-o", output)
    with announce_resume(command, kept="finished experts and resume points", output=output):
        folders = job(load_config(file), output)
    for name, folder in folders.items():
        click.echo(f"{name}: {folder}")


@cli.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@OUTPUT
@click.option("--last", type=click.IntRange(min=1), help="Take this many of the last checkpoints; default all.")
@click.option("--best", type=click.IntRange(min=1), help="Take this many of the best on the select items of --by.")
@click.option("--by", type=click.Path(dir_okay=False, path_type=Path), help="File with the `evaluate:` of --best.")
@click.option("--decay", type=click.Choice(["linear", "cosine", "1-sqrt"]), help="Weigh as this decay of the rate.")
@click.option("--min-rate", type=click.FloatRange(0, 1), help="Rate at the end of --decay, of the peak; default 0.")
def average(checkpoints: tuple[Path, ...], output: Path, by: Path | None, **options: Any) -> None:
    """Merge CHECKPOINTS of one training run (their folder, or several model folders) into a model folder."""
    from aftermix.config import load_config

    if options["last"] is not None and options["best"] is not None:
        raise click.UsageError("Name one of --last and --best.")

    scored_by = load_config(by) if by else None
    from aftermix.jobs.average import average as job

    folder = job(checkpoints, output, by=scored_by, log=lambda line: click.echo(printable(line)), **options)
    click.echo(f"Model: {folder}")


@cli.command()
@click.argument("expert")
@click.option("--base", required=True, help="Folder or hub name of the model that EXPERT was trained from.")
@OUTPUT
@click.option("--dtype", type=click.Choice(["bfloat16", "int8"]), default="bfloat16", show_default=True)
def diff(expert: str, base: str, output: Path, dtype: Any) -> None:
    """Store EXPERT minus its base as a vector folder, usable wherever a model of that base is."""
    from aftermix.jobs.diff import describe_diff
    from aftermix.jobs.diff import diff as job

    click.echo("\n".join(describe_diff(job(expert, base=base, output=output, dtype=dtype), output)))


@cli.command()
@TARGET
@BASE
@NUMBERS
@PICTURE
def inspect(target: str, base: str | None, json_file: Path | None, picture: Path | None) -> None:
    """Show norms, cosines and untouched tensors of the vectors of FILE, or of MODEL minus its base."""
    from aftermix.analysis.geometry_tables import print_geometry
    from aftermix.jobs.analysis.inspect import inspect as job

    geometry, name = job(target, base=base, json=json_file, picture=picture)
    print_geometry(geometry, base=name)


@cli.command()
@TARGET
@BASE
@NUMBERS
@PICTURE
@click.option("--curvature", is_flag=True, help="Instead, derivatives of each domain's loss at FILE's base.")
def analyze(target: str, base: str | None, json_file: Path | None, picture: Path | None, curvature: bool) -> None:
    """Fit Laplace and Gaussian to the entries of the vectors of FILE, or of MODEL minus its base."""
    if curvature:
        from aftermix.analysis.curvature_tables import print_derivatives
        from aftermix.jobs.analysis.curvature import analyze_curvature
        from aftermix.jobs.analysis.targets import load_target

        derivatives, label = analyze_curvature(load_target(target, base=base), json=json_file, picture=picture)
        print_derivatives(derivatives, base=label)
        return

    from aftermix.analysis.distribution_tables import print_fits
    from aftermix.jobs.analysis.analyze import analyze as job

    fits, name = job(target, base=base, json=json_file, picture=picture)
    print_fits(fits, base=name)


@cli.command()
@FILE
@OUTPUT
def calibrate(file: Path, output: Path) -> None:
    """Measure what the linear layers of FILE's experts are fed on their calibration text; `merge` can use it."""
    from aftermix.config import load_config

    config = prefetch_weights(load_config(file))
    from aftermix.jobs.calibrate.command import calibrate as job
    from aftermix.jobs.calibrate.command import describe_calibration

    for line in describe_calibration(job(config, output)):
        click.echo(printable(line))
    click.echo(f"Statistics: {output}")


@cli.command()
@click.argument("file", metavar="FILE|RUN", type=click.Path(path_type=Path))
@OUTPUT
@click.option("--weights", metavar="NAME=NUMBER,...", help="Of a RUN: merge weights; a vector left out weighs 0.")
@click.option("--push", "repo_id", metavar="REPO_ID", help="Upload the result to the hub under this name.")
@PRIVATE
@click.option("--check", is_flag=True, help="Hold every block of an exclusive merge against a second computation.")
def merge(file: Path, output: Path, weights: str | None, repo_id: str | None, private: bool, check: bool) -> None:
    """Merge the vectors of FILE, a recipe of aftermix or of mergekit, or of a search's RUN into a model folder."""
    if private and repo_id is None:
        raise click.UsageError("--private is for --push REPO_ID.")

    # An upload that could not succeed is refused before the merge and its libraries.
    if weights is None:
        from aftermix.mergekit.reading import load_recipe

        config = load_recipe(file)
    else:
        from aftermix.jobs.merge.from_run import configure_run_merge
        from aftermix.jobs.search.named_weights import parse_weights

        config = configure_run_merge(file, parse_weights(weights))
    if repo_id is not None:
        from aftermix.jobs.push import push as upload
        from aftermix.jobs.push import refuse_push

        refuse_push(repo_id)

    prefetch_weights(config)
    from aftermix.jobs.merge.command import merge as job

    click.echo(f"Model: {job(config, output, log=lambda line: click.echo(printable(line)), check=check)}")
    if repo_id is not None:
        command = _join_push(output, repo_id, private=private)
        with announce_resume(command, kept="the model", output=output, has_begun=True):
            click.echo(f"Hub: {upload(output, repo_id, private=private)}")


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo_id")
@PRIVATE
def push(folder: Path, repo_id: str, private: bool) -> None:
    """Upload the model of FOLDER (a model or run folder), with its card, to the hub as REPO_ID."""
    from aftermix.jobs.push import push as job

    with announce_resume(_join_push(folder, repo_id, private=private), kept="the model", output=folder):
        click.echo(f"Hub: {job(folder, repo_id, private=private)}")


@cli.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "target", required=True, type=click.Choice(["mergekit", *TRAINERS]), help="What is to read it.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New file or folder, by the tool.")
@click.option("--data", type=click.Path(dir_okay=False, path_type=Path), help="File whose `train:` names the data.")
@click.option("--dataset", metavar="NAME", help="Which mixture, where SOURCE is a file with several.")
@click.option("--tokens", type=float, help="Budget; by default as many as repeat nothing.")
@click.option("--max-epochs", type=float, help="Most repeats of a domain; default 4.")
@click.option("--root", help="Where megatron's prefixes and streaming's folders lie.")
@click.option("--sequence-length", "sequence_tokens", type=click.IntRange(min=1), help="Tokens of a sample of theirs.")
def export(source: Path, target: str, output: Path, **options: Any) -> None:
    """Write SOURCE for another tool: a recipe for mergekit, or the data mixture of a run or file for a trainer."""
    given = {name: value for name, value in options.items() if value is not None}
    if target == "mergekit":
        if given:
            raise click.UsageError("The options are for the mixtures of trainers; mergekit takes none of them.")
        from aftermix.jobs.export.command import export_mergekit

        for note in export_mergekit(source, output):
            click.echo(note)
        click.echo(f"Recipe: {output}")
        return

    from aftermix.jobs.export.mixture import ExportOptions, export_mixture

    for file in export_mixture(source, output, to=target, options=ExportOptions(**given), log=click.echo):
        click.echo(f"File: {file}")


@cli.command()
@MAYBE_FILE
@NEW_RUN
@RESUME
@click.option("--from", "source", type=FOLDER, help="Start from this run's stored scores, under FILE's objective.")
@click.option("--trials", type=click.IntRange(min=0), help="In place of FILE's `search.trials`.")
@click.option("--budget-tokens", type=click.FloatRange(min=1), help="In place of FILE's `search.budget_tokens`.")
def search(
    file: Path | None, output: Path | None, resume: Path | None, source: Path | None, **limits: int | float | None
) -> None:
    """Search the merge weights of FILE by measured score; write the best model and a report."""
    run = _choose_run_folder(file, output, resume, source)
    given = {name: value for name, value in limits.items() if value is not None}
    config = read_job_config(file, run, search=given)
    from aftermix.jobs.search.command import search as job
    from aftermix.report.console.search import print_result

    options = list_options({f"--{name.replace('_', '-')}": value for name, value in given.items()})
    command = join_command("aftermix", "search", file, "--resume", run, *options)
    anew = join_command("aftermix", "search", file or run / "config.yaml", "-o", f"{run}-2", *options)
    with announce_resume(command, kept="every finished trial", output=run, anew=anew, anew_without=anew):
        job(config, run, resume=resume is not None, source=source, log=partial(click.echo, err=True))
    print_result(run)


@cli.command()
@MAYBE_FILE
@NEW_RUN
@RESUME
@click.option("--from", "source", type=FOLDER, help="Take this run's stored scores, under FILE's utility and limits.")
@click.option("--verify", type=int, metavar="N", help="Then train N of the mixtures for real and compare ranks.")
@click.option("--tokens", type=click.FloatRange(min=1), metavar="T", help="Of each training; default as the experts.")
@click.option("--doremi", is_flag=True, help="With --verify: find DoReMi's ratios too.")
def mixture(
    file: Path | None, output: Path | None, resume: Path | None, source: Path | None, verify: int | None, **trained: Any
) -> None:
    """Find the data ratios of FILE's experts whose merge scores best; write them, that merge and a report."""
    run = _choose_run_folder(file, output, resume, source)
    if verify is None and any(trained.values()):
        raise click.UsageError("--tokens and --doremi are about the mixtures that --verify N trains.")
    config = read_job_config(file, run)

    from aftermix.jobs.mixture.command import mixture as job
    from aftermix.report.console.mixture import print_mixture

    # The command that goes on has the options of this one.
    tokens = int(trained["tokens"]) if trained["tokens"] else None
    options = [*list_options({"--verify": verify, "--tokens": tokens}), *(["--doremi"] if trained["doremi"] else [])]

    command = join_command("aftermix", "mixture", file, "--resume", run, *options)
    new = ("aftermix", "mixture", file or run / "config.yaml", "-o", f"{run}-2")
    anew, without = join_command(*new, "--from", run, *options), join_command(*new, *options)
    started: dict[str, Any] = {"resume": resume is not None, "source": source, "log": partial(click.echo, err=True)}
    with announce_resume(command, kept="every measured point", output=run, anew=anew, anew_without=without):
        if verify is None:
            job(config, run, **started)
        else:
            from aftermix.jobs.verify.command import run_and_verify

            run_and_verify(config, run, mixtures=verify, tokens=tokens, doremi=trained["doremi"], **started)
    print_mixture(run)


@cli.command()
@FILE
@click.option("--split", type=click.Choice(["search", "select", "test"]), default="test", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
@click.option("--show", type=click.IntRange(min=1), metavar="N", help="Instead, show N prompts a task, token by token.")
def evaluate(file: Path, split: Any, as_json: bool, show: int | None) -> None:
    """Score the merge of FILE at its own weights (without vectors: its base)."""
    from aftermix.config import load_config

    if show is not None:
        from aftermix.jobs.evaluate.prompts import show_prompts

        click.echo("\n".join(show_prompts(load_config(file), split=split, count=show)))
        return
    config = prefetch_weights(load_config(file))
    from aftermix.jobs.evaluate.command import evaluate as job
    from aftermix.jobs.terminal_text import describe_scores

    summary = job(config, split=split)
    click.echo(summary.to_bytes(escaped=True).rstrip() if as_json else "\n".join(describe_scores(summary)))


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("--weights", required=True, metavar="NAME=NUMBER,...", help="Merge weights; a vector left out weighs 0.")
@click.option("--json", "as_json", is_flag=True, help="Print the prediction as JSON.")
def predict(run: Path, weights: str, as_json: bool) -> None:
    """Predict the scores of a merge of RUN's vectors from the merges that it measured; no model is run."""
    from aftermix.jobs.search.named_weights import parse_weights
    from aftermix.jobs.search.predict import describe_prediction
    from aftermix.jobs.search.predict import predict as job

    prediction = job(run, parse_weights(weights))
    click.echo(prediction.to_bytes(escaped=True).rstrip() if as_json else "\n".join(describe_prediction(prediction)))


@cli.command()
@click.argument("run", type=FOLDER)
def report(run: Path) -> None:
    """Write RUN/report.html from the files of the run, finished or not."""
    from aftermix.report.page import write_report

    click.echo(f"Report: {write_report(run)}")


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("-o", "--output", required=True, type=NEW_FILE, help="Draw into this file: .svg, .png or .html.")
def landscape(run: Path, output: Path) -> None:
    """Draw utility and scores over all mixtures, as RUN, a finished mixture run, predicts them."""
    from aftermix.jobs.landscape import draw_landscape

    click.echo(f"Picture: {draw_landscape(run, output)}")


def main() -> None:
    """Run the command line; every error that a user can mend is one message and an exit code."""
    # Modules are no garbage: looking for it while they load, and once more at exit, is a third of the start-up.
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)
    sys.exit(run_guarded(lambda: cli.main(standalone_mode=False)))


def _join_push(folder: Path, repo_id: str, *, private: bool) -> str:
    return join_command("aftermix", "push", folder, repo_id, "--private" if private else None)


def _choose_run_folder(file: Path | None, output: Path | None, resume: Path | None, source: Path | None) -> Path:
    """Folder of the run that the options name: a new one or an earlier one."""
    if (output is None) == (resume is None):
        raise click.UsageError("Name one of -o/--output (a new run) and --resume (an earlier one).")
    if resume is not None and source is not None:
        raise click.UsageError("--from starts a new run: name it with -o/--output.")
    run = output or resume
    if run is None or (file is None and resume is None):
        raise click.UsageError("A new run needs FILE.")
    return run
