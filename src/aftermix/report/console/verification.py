"""The verification of a mixture run as tables in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from aftermix.report.number_format import RAW, ScoreScale
from aftermix.report.sections.verification import (
    UTILITY,
    choose_score_scale,
    compose_lead,
    compose_retrained_lead,
    format_cost,
    list_consistencies,
    list_other_ratios,
    list_retrained,
    read_verification,
)
from aftermix.runs.verification_records import VERIFICATION_FILE, ConsistencyRecord, VerificationRecord


def print_verification(run: Path, *, console: Console) -> None:
    """Print ranks, offsets, ratios of other methods and the cost table, if the run in `run` was verified."""
    record = read_verification(run)
    if record is None:
        return
    console.print(compose_lead(record), markup=False, highlight=False)
    retrained = [_tabulate_retrained(record)] if record.retrained else []
    for table in (_tabulate_ranks(record), _tabulate_other_ratios(record), *retrained, _tabulate_costs(record)):
        console.print(table)
    console.print(f"Trained: {run / VERIFICATION_FILE}", markup=False, highlight=False, soft_wrap=True)


def _tabulate_ranks(record: VerificationRecord) -> Table:
    unit = choose_score_scale(record)
    table = Table(title="Merged against trained: ranks, and trained minus merged; 95 % intervals")
    table.add_column("score", overflow="fold")
    for column in ("Spearman", "Kendall", "surrogates", "offset", "slope"):
        table.add_column(column, justify="right")

    for name, consistency in list_consistencies(record):
        table.add_row(name, *_format_consistency(consistency, RAW if name == UTILITY else unit))
    return table


def _format_consistency(consistency: ConsistencyRecord, unit: ScoreScale) -> tuple[str, ...]:
    rank = "none" if consistency.spearman is None else f"{consistency.spearman:.2f}"
    rank += f" [{consistency.interval[0]:.2f}, {consistency.interval[1]:.2f}]" if consistency.interval else ""

    offset = "" if consistency.offset is None else unit.format_signed(consistency.offset)
    offset += (
        f" [{', '.join(map(unit.format_signed, consistency.offset_interval))}]" if consistency.offset_interval else ""
    )

    kendall, predicted, slope = (
        "none" if value is None else f"{value:.2f}"
        for value in (consistency.kendall, consistency.predicted_spearman, consistency.slope)
    )
    return rank, kendall, predicted, offset, slope


def _tabulate_other_ratios(record: VerificationRecord) -> Table:
    table = Table(title="Ratios of other methods, of tokens")
    table.add_column("method")
    table.add_column("ratios", overflow="fold")
    for method, ratios in list_other_ratios(record):
        table.add_row(method, ratios)
    return table


def _tabulate_retrained(record: VerificationRecord) -> Table:
    title = "Trained at the ratios of each method; 95 % intervals over seeds"
    table = Table(title=title, caption=compose_retrained_lead(record), caption_justify="left")
    table.add_column("method", overflow="fold")
    for column in ("utility", "found minus it", *record.consistency.capabilities):
        table.add_column(column, justify="right")
    for method, _, cells in list_retrained(record):
        table.add_row(method, *cells)
    return table


def _tabulate_costs(record: VerificationRecord) -> Table:
    table = Table(title="Cost: parameters x tokens x runs, over MergeMix; with evaluation at a third")
    table.add_column("method")
    for column in ("tokens of a run", "runs", "tokens evaluated", "training", "with evaluation"):
        table.add_column(column, justify="right")

    for cost in record.cost:
        table.add_row(*format_cost(cost))
    return table
