"""A run in a cell's output: its verdict, winner and baselines, vectors, and two charts."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from aftermix.report.context import ReportContext, build_context
from aftermix.report.notebook.fragments import Cell, build_headline, build_paragraph, build_table
from aftermix.report.notebook.run_charts import RunChart
from aftermix.report.number_format import DASH
from aftermix.report.page import draw_models, draw_trials
from aftermix.runs.reader import RunContents


def summarise_run(run: RunContents) -> str:
    """The HTML of `run`, finished or not."""
    context = build_context(run)
    parts = [build_headline(context.headline), *map(build_paragraph, context.warnings)]
    parts += [_tabulate_models(context)] if context.finished else []
    parts.append(_tabulate_vectors(context))
    parts += [Markup(chart._repr_html_()) for chart in _draw_two(run, context)]  # noqa: S704 - our own drawings

    report = run.folder / "report.html"
    parts.append(build_paragraph(f"Report: {report}" if report.is_file() else f"Run: {run.folder}"))
    return Markup().join(parts)


def _draw_two(run: RunContents, context: ReportContext) -> Iterator[RunChart]:
    """Models by the first objective, and the trials."""
    for drawing in draw_models(context.judged)[:1] if context.judged else ():
        yield RunChart("comparison", str(drawing))
    trials = draw_trials(run, context)
    if trials is not None:
        yield RunChart("progress", str(trials))


def _tabulate_models(context: ReportContext) -> Markup:
    names = context.judged.names if context.judged else ()
    has_leads = len(context.models) > 1
    unit = f" ({context.scale.unit})" if context.scale.unit else ""
    columns = ["model", *(part for name in names for part in [f"{name}{unit}", *(["winner's lead"] * has_leads)])]

    rows: list[list[Cell]] = []
    for model in context.models:
        row: list[Cell] = [model.name]
        for place, objective in enumerate(model.objectives):
            row += [objective, *([model.leads[place] if model.leads else ""] * has_leads)]
        rows.append([*row, *model.tasks])
    winner = next((place for place, model in enumerate(context.models) if model.winner), -1)
    return build_table([*columns, *context.tasks], rows, bold=winner)


def _tabulate_vectors(context: ReportContext) -> Markup:
    columns = ["vector", "role", "searched range"]
    rows: list[list[Cell]] = [[vector.name, vector.role, vector.range] for vector in context.vectors]
    if context.finished:
        columns += ["merge weight", "data ratio"]
        for row, vector in zip(rows, context.vectors, strict=True):
            row += [vector.weight, vector.ratio or DASH]
    return build_table(columns, rows, texts=2)
