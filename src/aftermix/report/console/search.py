"""The result of a run as a table in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aftermix.report.certificate_text import describe_certificate
from aftermix.report.elimination_text import describe_elimination
from aftermix.report.number_format import POINTS, ScoreScale, choose_scale, format_setting
from aftermix.report.optimism_text import describe_expected_optimism
from aftermix.report.reused_text import compose_reused
from aftermix.report.sections.compared import build_compared_section, compose_rival_lead
from aftermix.report.verdict import JudgedResult, judge_result, name_objectives
from aftermix.runs.reader import RunResult, read_best
from aftermix.runs.records import CapabilityScoreRecord, ScoresRecord, TaskScore
from aftermix.runs.trials import quote_setting
from aftermix.terminal import open_table_console


def print_result(run: Path, *, console: Console | None = None) -> None:
    """Print winner, baselines, weights and ratios of the finished run in `run`."""
    console = console or open_table_console(140)
    best = read_best(run)

    print_rival_lead(best, console=console)
    console.print(_tabulate_scores(best))
    print_compared(best, console=console)
    console.print(_tabulate_weights(best))
    if best.settings:
        console.print(_tabulate_settings(best))

    if best.ratios_note:
        console.print(best.ratios_note, markup=False)
    for sentence in describe_certificate(best, _choose_objective_scale(best)):
        console.print(sentence, highlight=False)
    if elimination := describe_elimination(best):
        console.print(elimination, highlight=False)
    if optimism := describe_expected_optimism(best, _choose_objective_scale(best)):
        console.print(optimism, highlight=False)
    if best.reused is not None:
        console.print(compose_reused(best.reused), markup=False, highlight=False)
    if not best.floors_met:
        console.print("No candidate meets every floor on the select items; this one breaks them least.")
    console.print(
        f"Model:  {run / 'model'}\nReport: {run / 'report.html'}", markup=False, highlight=False, soft_wrap=True
    )


def _tabulate_scores(best: RunResult) -> Table:
    return tabulate_models(
        best,
        title="Test items, in points; 95 % bootstrap intervals; difference is winner minus row, paired",
        columns=("composition", "objective"),
        list_parts=lambda scores: scores.tasks,
        format_scores=partial(_format_intervals, scale=_choose_objective_scale(best)),
        key=lambda scores: sum(scores.objective),
    )


def judge_printed(best: RunResult) -> JudgedResult:
    """The result with the measure that the terminal compares by."""
    names = name_objectives(best.objective, len(best.test.objective))
    return judge_result(best, names=names, scale=_choose_objective_scale(best))


def print_rival_lead(best: RunResult, *, console: Console) -> None:
    """Print, before all else, the rivals that are ahead of the winner; nothing where none is."""
    lead = compose_rival_lead(judge_printed(best))
    if lead:
        console.print(lead, markup=False, highlight=False)


def print_compared(best: RunResult, *, console: Console) -> None:
    """Print the table of compared models; nothing where there are none."""
    section = build_compared_section(judge_printed(best))
    if section is None:
        return
    table = Table(title="Compared models, on the same test items", caption=section.lead, caption_justify="left")
    for column in ("model", "origin"):
        table.add_column(column, overflow="fold")
    for column in section.columns:
        table.add_column(column, justify="right")
    for place, row in enumerate(section.rows):
        table.add_row(row.name, row.origin, *row.cells, style=None if place else "bold")
    console.print(table)


def tabulate_models(
    best: RunResult,
    *,
    title: str,
    columns: tuple[str, str],
    list_parts: Callable[[ScoresRecord], Mapping[str, TaskScore] | Mapping[str, CapabilityScoreRecord]],
    format_scores: Callable[[ScoresRecord], str],
    key: Callable[[ScoresRecord], float],
) -> Table:
    """Winner and baselines on the test items, the largest `key` first.

    `columns` names the model and what it is judged by, which `format_scores` writes; the scores of the parts, by task
    or capability, follow: in points where all of a column are shares, else in the metric's own unit, which the title
    then says after `in points`.
    """
    names = list(list_parts(best.test))
    scales = {name: choose_scale(list_parts(scores)[name].score for scores in _list_measured(best)) for name in names}
    others = [name for name, scale in scales.items() if scale != POINTS]
    units = f"in points ({', '.join(others)}: as they are)" if others else "in points"
    table = Table(title=title.replace("in points", units))
    table.add_column(columns[0], overflow="fold")
    for column in (columns[1], "difference", *names):
        table.add_column(column, justify="right")

    # The winner is the row without a difference to the winner.
    rows: list[tuple[str, ScoresRecord, ScoresRecord | None]] = [("winner", best.test, None)]
    rows += [(baseline.name, baseline.test, baseline.difference) for baseline in best.baselines]
    for name, test, difference in sorted(rows, key=lambda row: -key(row[1])):
        parts = list_parts(test)
        table.add_row(
            name,
            format_scores(test),
            format_scores(difference) if difference else "",
            *(scales[each].format_plain(parts[each].score) for each in names),
            style="bold" if difference is None else None,
        )
    return table


def _list_measured(best: RunResult) -> list[ScoresRecord]:
    """The measurements of the table, the winner's first, and of compared models."""
    rivals = (row.test for row in best.compared or () if row.test is not None)
    return [best.test, *(baseline.test for baseline in best.baselines), *rivals]


def _choose_objective_scale(best: RunResult) -> ScoreScale:
    """Points where every task that is averaged is a share, too."""
    measured = _list_measured(best)
    values = [value for scores in measured for value in scores.objective]
    return choose_scale([*values, *(task.score for scores in measured for task in scores.tasks.values())])


def _format_intervals(scores: ScoresRecord, *, scale: ScoreScale) -> str:
    pairs = zip(scores.objective, scores.interval, strict=True)
    return "\n".join(scale.format_plain(value, ends) for value, ends in pairs)


def _tabulate_weights(best: RunResult) -> Table:
    table = Table(title=f"Trial {best.winner.trial}, {best.winner.method}")
    for column in ("vector", "role", "merge weight", "data ratio"):
        table.add_column(column, justify="left" if column in ("vector", "role") else "right")

    ratios = best.ratios or {}
    roles = {name: vector.role for name, vector in best.vectors.items()}
    for vector in best.vectors.values():
        roles |= {rule.weight: vector.role for rule in vector.rules or ()}
    for name, weight in best.weights.items():
        ratio = f"{ratios[name]:.1%}" if name in ratios else "-"
        table.add_row(name, roles[name], f"{weight:.3f}", ratio)
    return table


def _tabulate_settings(best: RunResult) -> Table:
    table = Table(title="Settings of the merge")
    table.add_column("setting")
    table.add_column("value", justify="right")
    for name, value in best.settings.items():
        table.add_row(quote_setting(name), format_setting(value))
    return table
