"""The result of a run as a table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aftermix.report import number_format as figures
from aftermix.terminal import open_table_console


def print_result(run: Path, *, console: Console | None = None) -> None:
    """Print winner, baselines, weights and ratios of the finished run in `run`."""
    console = console or open_table_console(140)
    best: dict[str, Any] = json.loads((run / "best.json").read_text(encoding="utf-8"))

    console.print(_tabulate_scores(best))
    console.print(_tabulate_weights(best))
    if best.get("settings"):
        console.print(_tabulate_settings(best))

    if best.get("ratios_note"):
        console.print(best["ratios_note"], markup=False)
    if not best["floors_met"]:
        console.print("No candidate meets every floor on the select items; this one breaks them least.")
    console.print(
        f"Model:  {run / 'model'}\nReport: {run / 'report.html'}", markup=False, highlight=False, soft_wrap=True
    )


def _tabulate_scores(best: dict[str, Any]) -> Table:
    return tabulate_models(
        best,
        title="Test items, in points; 95 % bootstrap intervals; difference is winner minus row, paired",
        columns=("composition", "objective"),
        part="tasks",
        format_scores=_format_intervals,
        key=lambda scores: sum(scores["objective"]),
    )


def tabulate_models(
    best: dict[str, Any],
    *,
    title: str,
    columns: tuple[str, str],
    part: str,
    format_scores: Callable[[dict[str, Any]], str],
    key: Callable[[dict[str, Any]], float],
) -> Table:
    """Winner and baselines on the test items, the largest `key` first.

    `columns` names the model and what it is judged by, which `format_scores` writes; the scores of `part`, by task or
    capability, follow in points.
    """
    names = list(best["test"][part])
    table = Table(title=title)
    table.add_column(columns[0], overflow="fold")
    for column in (columns[1], "difference", *names):
        table.add_column(column, justify="right")

    # The winner is the row without a difference to the winner.
    rows = [("winner", best["test"], None)]
    rows += [(entry["name"], entry["test"], entry["difference"]) for entry in best["baselines"]]
    for name, test, difference in sorted(rows, key=lambda row: -key(row[1])):
        table.add_row(
            name,
            format_scores(test),
            format_scores(difference) if difference else "",
            *(f"{100 * test[part][each]['score']:.1f}" for each in names),
            style="bold" if difference is None else None,
        )
    return table


def _format_intervals(summary: dict[str, Any]) -> str:
    pairs = zip(summary["objective"], summary["interval"], strict=True)
    return "\n".join(f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for value, (low, high) in pairs)


def _tabulate_weights(best: dict[str, Any]) -> Table:
    table = Table(title=f"Trial {best['winner']['trial']}, {best['winner']['method']}")
    for column in ("vector", "role", "merge weight", "data ratio"):
        table.add_column(column, justify="left" if column in ("vector", "role") else "right")

    ratios = best.get("ratios") or {}
    for name, weight in best["weights"].items():
        ratio = f"{ratios[name]:.1%}" if name in ratios else "-"
        table.add_row(name, best["vectors"][name]["role"], f"{weight:.3f}", ratio)
    return table


def _tabulate_settings(best: dict[str, Any]) -> Table:
    table = Table(title="Settings of the merge")
    table.add_column("setting")
    table.add_column("value", justify="right")
    for name, value in best["settings"].items():
        table.add_row(name, figures.format_setting(value))
    return table
