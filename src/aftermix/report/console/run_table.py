"""The mixture that a table of trained runs promises, as tables in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from aftermix.report.console.mixture import format_number, open_ratio_table, tabulate_surrogates
from aftermix.report.number_format import format_count
from aftermix.runs.mixture_records import TableMixtureRecord
from aftermix.terminal import open_table_console


def print_run_table(file: Path, *, console: Console | None = None) -> None:
    """Print surrogates, ratios and the best run of `file`, the `best.json` of a table."""
    console = console or open_table_console(140)
    best = TableMixtureRecord.read(file)
    console.print(tabulate_surrogates(best))

    ratios = open_ratio_table("Data ratios in tokens")
    for name, ratio in best.ratios.items():
        low, high = best.optimum.share_intervals[name]
        ratios.add_row(name, f"{ratio:.1%}", f"{low:.1%} to {high:.1%}")
    console.print(ratios)

    for line in list_run_table_notes(best):
        console.print(line, markup=False, highlight=False)
    console.print(f"Ratios: {file}", markup=False, highlight=False, soft_wrap=True)


def list_run_table_notes(best: TableMixtureRecord) -> list[str]:
    """Promise and what it is held against, in sentences."""
    promised = format_number(best.optimum.utility, best.optimum.interval)
    lines = [f"Utility promised at the optimum by {format_count(best.table.runs, 'trained run')}: {promised}."]
    if best.best_run is not None:
        value = format_number(best.best_run.utility, None)
        lines.append(f"Best run within the bounds: line {best.best_run.line} of {best.table.file}, utility {value}.")
    (worth,) = best.proxies
    if worth.spearman is not None:
        lines.append(f"Out of fold the surrogates rank the runs with Spearman {worth.spearman:.2f} by utility.")

    lines += [f"'{name}' scored the same in all runs and does not count." for name in best.utility.left_out]
    if best.table.losses:
        lines.append(f"Losses, whose sign is changed in all figures: {', '.join(best.table.losses)}.")
    if best.table.empty:
        cells = ", ".join(f"{name} in {format_count(count, 'run')}" for name, count in best.table.empty.items())
        lines.append(f"Empty shares count as 0: {cells}.")
    if best.table.left_alone:
        lines.append(f"Columns that are neither shares nor scores: {', '.join(best.table.left_alone)}.")
    if not best.optimum.floors_met:
        lines.append("No mixture meets every floor by prediction; this one breaks them least.")
    return lines
