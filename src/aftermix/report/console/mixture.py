"""The result of a mixture run as tables in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from aftermix.errors import AftermixError
from aftermix.report.console.search import print_compared, print_rival_lead, tabulate_models
from aftermix.report.console.verification import print_verification
from aftermix.report.reused_text import compose_reused
from aftermix.report.sections.mixture import compose_first_order, compose_tree_orders
from aftermix.report.sections.mixture_tree import list_level_notes, list_tree_rows
from aftermix.report.sections.proxies import build_proxy_section
from aftermix.runs.json_record import Interval
from aftermix.runs.mixture_records import (
    MixtureRecord,
    OutOfFoldRecord,
    TableMixtureRecord,
    TreeGroupRecord,
    TreeRecord,
)
from aftermix.runs.reader import read_best
from aftermix.runs.records import BestRecord, UtilityScore
from aftermix.terminal import open_table_console


def print_mixture(run: Path, *, console: Console | None = None) -> None:
    """Print surrogates, verified mixtures, comparison and ratios of the finished mixture run in `run`."""
    console = console or open_table_console(140)
    best = read_best(run)
    if isinstance(best, BestRecord):
        raise AftermixError(str(run), "expected the run of a mixture, found that of a search", "Name another run.")

    print_rival_lead(best, console=console)
    # Surrogates and verified mixtures of a tree belong to its groups, which have files of their own.
    tree = best.tree if isinstance(best, TreeRecord) else None
    if isinstance(best, MixtureRecord):
        tables = [
            tabulate_surrogates(best),
            _tabulate_verified(best),
            *_tabulate_proxies(best),
            _tabulate_compared(best),
            _tabulate_ratios(best),
        ]
    else:
        tables = [*_tabulate_proxies(best), _tabulate_compared(best), _tabulate_tree(best.tree)]
    for table in tables:
        console.print(table)

    print_compared(best, console=console)
    for note in list_level_notes(tree) if tree else ():
        console.print(note, markup=False)
    if orders := _compose_orders(best):
        console.print(orders, markup=False, highlight=False)
    if best.reused is not None:
        console.print(compose_reused(best.reused), markup=False, highlight=False)
    for name in best.utility.left_out:
        console.print(f"'{name}' scored the same at all points and does not count.", markup=False)
    if best.points.failed:
        console.print(f"{best.points.failed} points failed and were left out; trials.jsonl says why.")
    if not best.floors_met:
        console.print("No verified mixture meets every floor on the select items; this one breaks them least.")

    print_verification(run, console=console)
    console.print(
        f"Ratios: {run / 'best.json'}\nModel:  {run / 'model'}\nReport: {run / 'report.html'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _compose_orders(best: MixtureRecord | TreeRecord) -> str:
    return (
        compose_tree_orders(best)
        if isinstance(best, TreeRecord)
        else compose_first_order(best.first_order, best.second_order)
    )


def tabulate_surrogates(best: MixtureRecord | TableMixtureRecord) -> Table:
    """Every regressor of every capability, out of fold."""
    table = Table(title="Surrogates: Spearman and RMSE out of fold; * is used")
    table.add_column("capability", overflow="fold")
    names = list(dict.fromkeys(name for _, entry in best.surrogate_rows for name in entry.candidates))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")

    for capability, entry in best.surrogate_rows:
        cells = [_format_errors(entry.candidates.get(name), chosen=entry.choice == name) for name in names]
        table.add_row(capability, *cells)
    return table


def _format_errors(errors: OutOfFoldRecord | None, *, chosen: bool) -> str:
    return f"{errors.spearman:.2f}, {errors.rmse:.2g}{' *' if chosen else ''}" if errors else "-"


def _tabulate_verified(best: MixtureRecord) -> Table:
    """Mixtures that were merged and measured on select items; the winner in bold."""
    table = Table(title="Verified by merging: utility predicted, and measured on select items; 95 % intervals")
    for column in ("mixture", "shares"):
        table.add_column(column, overflow="fold")
    for column in ("predicted", "measured"):
        table.add_column(column, justify="right")

    for entry in best.verified:
        table.add_row(
            entry.name,
            ", ".join(f"{name} {share:.3f}" for name, share in entry.shares.items()),
            format_number(entry.predicted.utility, entry.predicted.interval),
            _format_utility(entry.select.utility),
            style="bold" if entry.name == best.winner.point else None,
        )
    return table


def _tabulate_proxies(best: MixtureRecord | TreeRecord) -> list[Table]:
    """Their worth or their agreement; nothing for a run that does not tell it."""
    section = build_proxy_section(best)
    if section is None:
        return []
    table = Table(title="Proxies for trained mixtures", caption=section.lead, caption_justify="left")
    table.add_column("proxy", overflow="fold")
    for column in section.columns:
        table.add_column(column, justify="right")
    for name, cells in section.rows:
        table.add_row(name, *cells)
    return [table]


def _tabulate_compared(best: MixtureRecord | TreeRecord) -> Table:
    return tabulate_models(
        best,
        title="Test items: utility, and scores in points; 95 % intervals; difference is winner minus row",
        columns=("mixture", "utility"),
        list_parts=lambda scores: scores.capabilities,
        format_scores=lambda scores: _format_utility(scores.utility),
        key=lambda scores: _replace_missing(scores.utility.value if scores.utility else None),
    )


def _tabulate_ratios(best: MixtureRecord) -> Table:
    table = open_ratio_table(f"Data ratios in tokens ({best.winner.point}, {best.winner.method})")
    moved = (best.first_order.ratios if best.first_order else None) or {}
    if moved:
        table.add_column("to first order", justify="right")
    for name, ratio in best.ratios.items():
        low, high = best.optimum.share_intervals[name]
        table.add_row(name, f"{ratio:.1%}", f"{low:.1%} to {high:.1%}", *([f"{moved[name]:.1%}"] if moved else []))
    return table


def open_ratio_table(title: str) -> Table:
    """An empty table of ratios with their intervals."""
    table = Table(title=title)
    table.add_column("data", overflow="fold")
    for column in ("ratio", "interval of the optimum"):
        table.add_column(column, justify="right")
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


def _format_utility(utility: UtilityScore | None) -> str:
    return format_number(utility.value, utility.interval) if utility else "no value"


def format_number(value: float | None, interval: Interval | None) -> str:
    """A utility with its interval, in ASCII."""
    shown = "no value" if value is None else f"{value:.2f}"
    return shown if interval is None else f"{shown} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _replace_missing(value: float | None) -> float:
    return float("-inf") if value is None else value
