"""The verification of a mixture run as tables in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from aftermix.report.number_format import RAW, Scale
from aftermix.report.sections.verification import (
    FILE,
    UTILITY,
    ConsistencyRecord,
    VerificationRecord,
    consistencies,
    cost_cells,
    found_ratios,
    lead_of,
    read_verification,
    scale_of,
)


def print_verification(run: Path, *, console: Console) -> None:
    """Print ranks, offsets, ratios of other methods and the cost table, if the run in `run` was verified."""
    record = read_verification(run)
    if record is None:
        return
    console.print(lead_of(record), markup=False, highlight=False)
    for table in (_ranks(record), _others(record), _costs(record)):
        console.print(table)
    console.print(f"Trained: {run / FILE}", markup=False, highlight=False, soft_wrap=True)


def _ranks(record: VerificationRecord) -> Table:
    unit = scale_of(record)
    table = Table(title="Merged against trained: ranks, and trained minus merged; 95 % intervals")
    table.add_column("score", overflow="fold")
    for column in ("Spearman", "Kendall", "surrogates", "offset", "slope"):
        table.add_column(column, justify="right")

    for name, found in consistencies(record):
        table.add_row(name, *_cells(found, RAW if name == UTILITY else unit))
    return table


def _cells(found: ConsistencyRecord, unit: Scale) -> tuple[str, ...]:
    rank = "none" if found.spearman is None else f"{found.spearman:.2f}"
    rank += f" [{found.interval[0]:.2f}, {found.interval[1]:.2f}]" if found.interval else ""

    offset = "" if found.offset is None else unit.signed(found.offset)
    offset += f" [{', '.join(map(unit.signed, found.offset_interval))}]" if found.offset_interval else ""

    kendall, predicted, slope = (
        "none" if value is None else f"{value:.2f}" for value in (found.kendall, found.predicted_spearman, found.slope)
    )
    return rank, kendall, predicted, offset, slope


def _others(record: VerificationRecord) -> Table:
    table = Table(title="Ratios of other methods, of tokens")
    table.add_column("method")
    table.add_column("ratios", overflow="fold")
    for method, ratios in found_ratios(record):
        table.add_row(method, ratios)
    return table


def _costs(record: VerificationRecord) -> Table:
    table = Table(title="Cost: parameters x tokens x runs, over MergeMix; with evaluation at a third")
    table.add_column("method")
    for column in ("tokens of a run", "runs", "tokens evaluated", "training", "with evaluation"):
        table.add_column(column, justify="right")

    for cost in record.cost:
        table.add_row(*cost_cells(cost))
    return table
