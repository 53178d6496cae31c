"""Commands that measure and search, and those on their runs: `search`, `mixture`, `evaluate`, `predict`, `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftermix.api.job_files import prefetch_weights, read_job_config
from aftermix.cli.options import (
    AS_JSON,
    FILE,
    FOLDER,
    NEW_FILE,
    choose_run_folder,
    print_document,
    print_result,
    tell_aside,
)
from aftermix.command_end import announce_resume, join_command, list_options

MAYBE_FILE = click.argument("file", required=False, type=NEW_FILE)
NEW_RUN = click.option("-o", "--output", type=FOLDER, help="New run folder.")
RESUME = click.option("--resume", type=FOLDER, help="Go on with the run in this folder; FILE may be left out.")


@click.command()
@MAYBE_FILE
@NEW_RUN
@RESUME
@click.option("--from", "source", type=FOLDER, help="Start from this run's stored scores, under FILE's objective.")
@click.option("--trials", type=click.IntRange(min=0), help="In place of FILE's `search.trials`.")
@click.option("--budget-tokens", type=click.FloatRange(min=1), help="In place of FILE's `search.budget_tokens`.")
@AS_JSON
def search(
    file: Path | None,
    output: Path | None,
    resume: Path | None,
    source: Path | None,
    as_json: bool,
    **limits: int | float | None,
) -> None:
    """Search the merge weights of FILE by measured score; write the best model and a report."""
    run = choose_run_folder(file, output, resume, source)
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    config = read_job_config(file, run, search=given)
    from aftermix.api.commands.documents import build_run
    from aftermix.api.commands.texts import print_search
    from aftermix.api.work import search as job

    options = list_options({f"--{name.replace('_', '-')}": value for name, value in given.items()})
    command = join_command("aftermix", "search", file, "--resume", run, *options)
    anew = join_command("aftermix", "search", file or run / "config.yaml", "-o", f"{run}-2", *options)
    with announce_resume(command, kept="every finished trial", output=run, anew=anew, anew_without=anew):
        job(config, output=run, resume=resume is not None, start_from=source, log=tell_aside, **given)
    print_document(build_run(run)) if as_json else print_search(run)


@click.command()
@MAYBE_FILE
@NEW_RUN
@RESUME
@click.option("--from", "source", type=FOLDER, help="Take this run's stored scores, under FILE's utility and limits.")
@click.option("--verify", type=int, metavar="N", help="Then train N of the mixtures for real and compare ranks.")
@click.option("--tokens", type=click.FloatRange(min=1), metavar="T", help="Of each training; default as the experts.")
@click.option("--doremi", is_flag=True, help="With --verify: find DoReMi's ratios too.")
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="S", help="With --verify: S models at each method's ratios."
)
@click.option("--table", type=NEW_FILE, help="Learn from the trained runs of this CSV, without merges or FILE.")
@AS_JSON
def mixture(
    file: Path | None,
    output: Path | None,
    resume: Path | None,
    source: Path | None,
    verify: int | None,
    table: Path | None,
    as_json: bool,
    **trained: Any,
) -> None:
    """Find the data ratios of FILE's experts whose merge scores best; write them, that merge and a report."""
    if table is not None:
        _mix_table(table, file, output, as_json=as_json, others=(resume, source, verify, *trained.values()))
        return

    run = choose_run_folder(file, output, resume, source)
    if verify is None and any(trained.values()):
        raise click.UsageError("--tokens, --doremi and --seeds are about the mixtures that --verify N trains.")
    config = read_job_config(file, run)

    from aftermix.api.commands.documents import build_run
    from aftermix.api.commands.texts import print_mixture
    from aftermix.api.work import mixture as job

    # The command that goes on has the options of this one.
    tokens, doremi = int(trained["tokens"]) if trained["tokens"] else None, trained["doremi"]
    seeds = trained["seeds"]
    named = {"--verify": verify, "--tokens": tokens, "--seeds": seeds}
    options = [*list_options(named), *(["--doremi"] if doremi else [])]

    command = join_command("aftermix", "mixture", file, "--resume", run, *options)
    new = ("aftermix", "mixture", file or run / "config.yaml", "-o", f"{run}-2")
    anew, without = join_command(*new, "--from", run, *options), join_command(*new, *options)
    started: dict[str, Any] = {"resume": resume is not None, "start_from": source, "log": tell_aside}
    with announce_resume(command, kept="every measured point", output=run, anew=anew, anew_without=without):
        job(config, output=run, verify=verify, verify_tokens=tokens, doremi=doremi, verify_seeds=seeds or 0, **started)
    print_document(build_run(run)) if as_json else print_mixture(run)


def _mix_table(
    table: Path, file: Path | None, output: Path | None, *, as_json: bool, others: tuple[object, ...]
) -> None:
    """`mixture --table`: ratios and their folder, no merge."""
    if output is None or any(option is not None and option is not False for option in others):
        raise click.UsageError("--table takes FILE and -o/--output, a new folder, and of the others --json alone.")
    from aftermix.api.commands.documents import build_table_mixture
    from aftermix.api.commands.runs import mix_run_table
    from aftermix.api.commands.texts import print_run_table

    best = mix_run_table(table, output, file)
    print_document(build_table_mixture(best)) if as_json else print_run_table(best)


@click.command()
@FILE
@click.option("--split", type=click.Choice(["search", "select", "test"]), default="test", show_default=True)
@AS_JSON
@click.option("--show", type=click.IntRange(min=1), metavar="N", help="Instead, show N prompts a task, token by token.")
def evaluate(file: Path, split: Any, as_json: bool, show: int | None) -> None:
    """Score the merge of FILE at its own weights (without vectors: its base)."""
    if show is not None and as_json:
        raise click.UsageError("--show is to be read, and --json to be parsed: name one of them.")
    if show is not None:
        from aftermix.api.commands.checks import show_file_prompts

        click.echo("\n".join(show_file_prompts(file, split=split, count=show)))
        return

    from aftermix.config import load_config

    config = prefetch_weights(load_config(file))
    from aftermix.api.commands.texts import describe_scores
    from aftermix.api.work import evaluate as job

    summary = job(config, split=split)
    click.echo(summary.to_bytes(escaped=True).rstrip() if as_json else "\n".join(describe_scores(summary)))


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--cluster", metavar="FIELD", help="Documents of one value of this field are drawn together.")
@click.option(
    "--split", type=click.Choice(["select", "test"]), default="test", show_default=True, help="Items of runs."
)
@AS_JSON
def compare(a: Path, b: Path, cluster: str | None, split: Any, as_json: bool) -> None:
    """Compare the scores of A and B, runs or lm-eval's samples_*.jsonl, paired by document."""
    from aftermix.api.commands.runs import compare_results
    from aftermix.api.commands.texts import describe_comparison

    found = compare_results(a, b, cluster=cluster, split=split)
    click.echo(found.to_bytes(escaped=True).rstrip() if as_json else "\n".join(describe_comparison(found)))


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--weights", required=True, metavar="NAME=NUMBER,...", help="Merge weights; a vector left out weighs 0.")
@AS_JSON
def predict(run: Path, weights: str, as_json: bool) -> None:
    """Predict the scores of a merge of RUN's vectors from the merges that it measured; no model is run."""
    from aftermix.api.commands.runs import predict_merge
    from aftermix.api.commands.texts import describe_prediction

    prediction = predict_merge(run, weights)
    click.echo(prediction.to_bytes(escaped=True).rstrip() if as_json else "\n".join(describe_prediction(prediction)))


@click.command()
@click.argument("run", type=FOLDER)
@AS_JSON
def report(run: Path, as_json: bool) -> None:
    """Write RUN/report.html from the files of the run, finished or not."""
    from aftermix.api.commands.runs import write_run_report

    page = write_run_report(run)
    print_result(as_json, lambda: {"report": str(page)}, lambda: [f"Report: {page}"])


@click.command()
@click.argument("run", type=FOLDER)
@click.option("-o", "--output", required=True, type=NEW_FILE, help="Draw into this file: .svg, .png or .html.")
@AS_JSON
def landscape(run: Path, output: Path, as_json: bool) -> None:
    """Draw utility and scores over all mixtures, as RUN, a finished mixture run, predicts them."""
    from aftermix.api.commands.runs import draw_run_landscape

    picture = draw_run_landscape(run, output)
    print_result(as_json, lambda: {"picture": str(picture)}, lambda: [f"Picture: {picture}"])
