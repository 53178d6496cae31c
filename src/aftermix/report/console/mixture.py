"""The result of a mixture run as tables in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aftermix.report.console.search import tabulate_models
from aftermix.report.console.verification import print_verification
from aftermix.report.sections.mixture_tree import TreeGroupRecord, list_level_notes, list_tree_rows
from aftermix.terminal import open_table_console


def print_mixture(run: Path, *, console: Console | None = None) -> None:
    """Print surrogates, verified mixtures, comparison and ratios of the finished mixture run in `run`."""
    console = console or open_table_console(140)
    best: dict[str, Any] = json.loads((run / "best.json").read_text(encoding="utf-8"))

    # Surrogates and verified mixtures of a tree belong to its groups, which have files of their own.
    tree = TreeGroupRecord.model_validate(best["tree"]) if "tree" in best else None
    if tree is None:
        tables = [
            _tabulate_surrogates(best),
            _tabulate_verified(best),
            _tabulate_compared(best),
            _tabulate_ratios(best),
        ]
    else:
        tables = [_tabulate_compared(best), _tabulate_tree(tree)]
    for table in tables:
        console.print(table)

    for note in list_level_notes(tree) if tree else ():
        console.print(note, markup=False)
    for name in best["utility"]["left_out"]:
        console.print(f"'{name}' scored the same at all points and does not count.", markup=False)
    if best["points"]["failed"]:
        console.print(f"{best['points']['failed']} points failed and were left out; trials.jsonl says why.")
    if not best["floors_met"]:
        console.print("No verified mixture meets every floor on the select items; this one breaks them least.")

    print_verification(run, console=console)
    console.print(
        f"Ratios: {run / 'best.json'}\nModel:  {run / 'model'}\nReport: {run / 'report.html'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _tabulate_surrogates(best: dict[str, Any]) -> Table:
    table = Table(title="Surrogates: Spearman and RMSE out of fold; * is used")
    table.add_column("capability", overflow="fold")
    entries = best["surrogates"]
    names = list(dict.fromkeys(name for entry in entries.values() for name in entry["candidates"]))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")

    for capability, entry in entries.items():
        cells = [_format_errors(entry["candidates"].get(name), chosen=entry["choice"] == name) for name in names]
        table.add_row(capability, *cells)
    return table


def _format_errors(errors: dict[str, float] | None, *, chosen: bool) -> str:
    return f"{errors['spearman']:.2f}, {errors['rmse']:.2g}{' *' if chosen else ''}" if errors else "-"


def _tabulate_verified(best: dict[str, Any]) -> Table:
    """Mixtures that were merged and measured on select items; the winner in bold."""
    table = Table(title="Verified by merging: utility predicted, and measured on select items; 95 % intervals")
    for column in ("mixture", "shares"):
        table.add_column(column, overflow="fold")
    for column in ("predicted", "measured"):
        table.add_column(column, justify="right")

    for entry in best["verified"]:
        predicted = entry["predicted"]
        table.add_row(
            entry["name"],
            ", ".join(f"{name} {share:.3f}" for name, share in entry["shares"].items()),
            _format_number(predicted["utility"], predicted["interval"]),
            _format_number(**entry["select"]["utility"]),
            style="bold" if entry["name"] == best["winner"]["point"] else None,
        )
    return table


def _tabulate_compared(best: dict[str, Any]) -> Table:
    return tabulate_models(
        best,
        title="Test items: utility, and scores in points; 95 % intervals; difference is winner minus row",
        columns=("mixture", "utility"),
        part="capabilities",
        format_scores=lambda scores: _format_number(**scores["utility"]),
        key=lambda scores: _replace_missing(scores["utility"]["value"]),
    )


def _tabulate_ratios(best: dict[str, Any]) -> Table:
    table = Table(title=f"Data ratios in tokens ({best['winner']['point']}, {best['winner']['method']})")
    table.add_column("data")
    for column in ("ratio", "interval of the optimum"):
        table.add_column(column, justify="right")

    for name, ratio in best["ratios"].items():
        low, high = best["optimum"]["share_intervals"][name]
        table.add_row(name, f"{ratio:.1%}", f"{low:.1%} to {high:.1%}")
    return table


def _tabulate_tree(tree: TreeGroupRecord) -> Table:
    """Members below their groups."""
    table = Table(title="Data ratios in tokens: shares in each group, and of the whole")
    table.add_column("data", overflow="fold")
    for column in ("share of its group", "interval of the optimum", "ratio"):
        table.add_column(column, justify="right")

    for row in list_tree_rows(tree):
        table.add_row("  " * row.depth + row.name, row.share, row.interval, row.whole)
    return table


def _format_number(value: float | None = None, interval: list[float] | None = None) -> str:
    shown = "no value" if value is None else f"{value:.2f}"
    return shown if interval is None else f"{shown} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _replace_missing(value: float | None) -> float:
    return float("-inf") if value is None else value
