"""The result of a run as a table in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aftermix.report import figures
from aftermix.terminal import table_console


def print_result(run: Path, *, console: Console | None = None) -> None:
    """Print winner, baselines, weights and ratios of the finished run in `run`."""
    console = console or table_console(140)
    best: dict[str, Any] = json.loads((run / "best.json").read_text(encoding="utf-8"))
    console.print(_scores(best))
    console.print(_weights(best))
    if best.get("settings"):
        console.print(_settings(best))
    if best.get("ratios_note"):
        console.print(best["ratios_note"], markup=False)
    if not best["floors_met"]:
        console.print("No candidate meets every floor on the select items; this one breaks them least.")
    console.print(
        f"Model:  {run / 'model'}\nReport: {run / 'report.html'}", markup=False, highlight=False, soft_wrap=True
    )


def _scores(best: dict[str, Any]) -> Table:
    """Winner and baselines on the test items, best first, in points with 95 % intervals."""
    tasks = list(best["test"]["tasks"])
    table = Table(title="Test items, in points; 95 % bootstrap intervals; difference is winner minus row, paired")
    table.add_column("composition", overflow="fold")
    table.add_column("objective", justify="right")
    table.add_column("difference", justify="right")
    for task in tasks:
        table.add_column(task, justify="right")
    rows = [("winner", best["test"], None)]
    rows += [(entry["name"], entry["test"], entry["difference"]) for entry in best["baselines"]]
    for name, test, difference in sorted(rows, key=lambda row: -sum(row[1]["objective"])):
        table.add_row(
            name,
            _interval(test),
            _interval(difference) if difference else "",
            *(f"{100 * test['tasks'][task]['score']:.1f}" for task in tasks),
            style="bold" if difference is None else None,
        )
    return table


def _interval(summary: dict[str, Any]) -> str:
    pairs = zip(summary["objective"], summary["interval"], strict=True)
    return "\n".join(f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for value, (low, high) in pairs)


def _weights(best: dict[str, Any]) -> Table:
    table = Table(title=f"Trial {best['winner']['trial']}, {best['winner']['method']}")
    for column in ("vector", "role", "merge weight", "data ratio"):
        table.add_column(column, justify="left" if column in ("vector", "role") else "right")
    ratios = best.get("ratios") or {}
    for name, weight in best["weights"].items():
        ratio = f"{ratios[name]:.1%}" if name in ratios else "-"
        table.add_row(name, best["vectors"][name]["role"], f"{weight:.3f}", ratio)
    return table


def _settings(best: dict[str, Any]) -> Table:
    table = Table(title="Settings of the merge")
    table.add_column("setting")
    table.add_column("value", justify="right")
    for name, value in best["settings"].items():
        table.add_row(name, figures.setting(value))
    return table
