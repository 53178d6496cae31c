"""One self-contained HTML file from a run folder: no network, no font, nothing read but the run.

There is no script in it but that of the mixing desk, on the page of a run that has one; it stands in the file, and a
policy of the page lets nothing else run and nothing be fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from aftermix.files import write_atomically
from aftermix.report.charts.landscape import read_cosines, read_landscape
from aftermix.report.charts.result import (
    ComparisonEntry,
    draw_comparison,
    draw_optimism,
    draw_pareto,
    draw_progress,
    draw_scan,
)
from aftermix.report.charts.weight_space import WeightSpace, draw_weight_space
from aftermix.report.context import ReportContext, build_context
from aftermix.report.sections.compared import build_compared_section
from aftermix.report.sections.desk import DeskSection, build_desk_section
from aftermix.report.sections.landscape import LandscapeSection, build_landscape_section
from aftermix.report.sections.mixture import build_mixture_section
from aftermix.report.sections.mixture_tree import TreeSection, build_tree_section
from aftermix.report.sections.proxies import build_proxy_section
from aftermix.report.sections.shares import build_share_section, read_shares
from aftermix.report.sections.verification import build_verification_section, read_verification
from aftermix.report.tables.vectors import list_weights
from aftermix.report.trials import find_nondominated, select_measured
from aftermix.report.verdict import JudgedResult
from aftermix.runs.mixture_records import MixtureRecord, TreeRecord
from aftermix.runs.reader import RunContents, RunResult, read_run
from aftermix.runs.share_records import SharesRecord
from aftermix.runs.verification_records import VerificationRecord


@dataclass(frozen=True)
class ReportCharts:
    """Drawings of a page, None where there is nothing to draw."""

    progress: Markup | None
    space: WeightSpace | None
    pareto: Markup | None
    comparison: tuple[Markup, ...] = ()
    """One for each objective."""
    optimism: Markup | None = None
    scan: Markup | None = None


def write_report(run: Path) -> Path:
    """Write `run`/report.html from the files of the run folder, finished or not, and return its path.

    The same run folder gives the same bytes. Raises :class:`AftermixError` when `run` is no run folder or one of its
    files is damaged; the old report is kept then.
    """
    path = run / "report.html"
    contents, verification = read_run(run), read_verification(run)
    mixture = contents.best if isinstance(contents.best, MixtureRecord) else None
    tree = build_tree_section(run, contents.best) if isinstance(contents.best, TreeRecord) else None
    landscape = build_landscape_section(read_landscape(run), read_cosines(run))

    page = render(
        contents, shares=read_shares(run), mixture=mixture, tree=tree, verification=verification, landscape=landscape,
        desk=build_desk_section(contents),
    )  # fmt: skip
    write_atomically(path, page)
    return path


def render(
    run: RunContents,
    *,
    shares: SharesRecord | None = None,
    mixture: MixtureRecord | None = None,
    tree: TreeSection | None = None,
    verification: VerificationRecord | None = None,
    landscape: LandscapeSection | None = None,
    desk: DeskSection | None = None,
) -> str:
    """The page for `run`, with what its vectors got where that is known, and the mixture that it found and trained."""
    context = build_context(run)
    template = open_templates().get_template("template.html")
    return template.render(
        view=context,
        charts=draw_charts(run, context),
        shares=build_share_section(shares),
        mixture=build_mixture_section(mixture),
        proxies=build_proxy_section(mixture or (run.best if isinstance(run.best, TreeRecord) else None)),
        tree=tree,
        verification=build_verification_section(verification),
        landscape=landscape,
        desk=desk,
        compared=build_compared_section(context.judged),
        style=read_style(),
    )


def read_style() -> Markup:
    """The style sheet of all pages. It is ours; no name of the user's is put into it."""
    return Markup(_read_package_file("style.css"))  # noqa: S704


@cache
def open_templates() -> Environment:
    """The templates, compiled once: a command may write several pages."""
    environment = Environment(
        loader=FunctionLoader(_read_package_file), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["breakable"] = _allow_breaks
    return environment


def draw_charts(run: RunContents, context: ReportContext) -> ReportCharts:
    """The drawings of `run` and its `context`, those that need a result where there is one."""
    winner = run.best.winner.trial if run.best else None
    drawings = ReportCharts(
        progress=draw_trials(run, context),
        space=draw_weight_space(run.trials, vectors=_list_axes(run), winner=winner, scale=context.scale),
        pareto=_draw_front(run, context, winner),
    )
    return _add_result(drawings, run.best, context.judged, context) if run.best and context.judged else drawings


def _list_axes(run: RunContents) -> tuple[str, ...]:
    """Axes of the weight space: weights that were searched, and settings that are numbers."""
    settings = run.trials[0].settings if run.trials else {}
    numbers = [name for name, value in settings.items() if isinstance(value, int | float) and type(value) is not bool]
    return (*(list_weights(run.config) if run.config.search.over.weights else ()), *numbers)


def _draw_front(run: RunContents, context: ReportContext, winner: int | None) -> Markup | None:
    front = (run.best and run.best.front) or find_nondominated(run.trials)
    if len(context.objectives) < 2 or not front:
        return None
    return draw_pareto(run.trials, front=front, names=context.objectives, winner=winner, scale=context.scale)


def _add_result(drawings: ReportCharts, best: RunResult, judged: JudgedResult, context: ReportContext) -> ReportCharts:
    """`drawings` with those that only a finished run has."""
    return replace(
        drawings,
        comparison=draw_models(judged),
        optimism=draw_optimism(
            best.candidates, winner=best.winner.trial, search=best.search, select=best.select, test=best.test,
            scale=context.scale,
        ),
        scan=draw_scan(
            best.scan, chosen=best.weights.get(best.scan.vector), objectives=len(context.objectives),
            scale=context.scale,
        )
        if best.scan and best.scan.points
        else None,
    )  # fmt: skip


def draw_trials(run: RunContents, context: ReportContext) -> Markup | None:
    """The score of every trial in order; None before one was measured."""
    if not select_measured(run.trials):
        return None
    winner = run.best.winner.trial if run.best else None
    return draw_progress(run.trials, names=context.objectives, winner=winner, scale=context.scale)


def draw_models(judged: JudgedResult) -> tuple[Markup, ...]:
    """Winner and baselines with their intervals, a drawing an objective; none where there are no baselines."""
    return tuple(
        draw_comparison(
            _list_entries(judged.best, place), objective=place, scale=judged.scale, title=_name_axis(judged, place)
        )
        for place in range(len(judged.names))
        if judged.best.baselines
    )


def _list_entries(best: RunResult, objective: int) -> list[ComparisonEntry]:
    entries = [ComparisonEntry("winner", best.test, winner=True)]
    entries += [ComparisonEntry(baseline.name, baseline.test, winner=False) for baseline in best.baselines]
    return sorted(entries, key=lambda entry: -entry.test.objective[objective])


def _name_axis(judged: JudgedResult, place: int) -> str:
    return "test score" if len(judged.names) == 1 else f"test score, {judged.names[place]}"


def _allow_breaks(name: str) -> Markup:
    """`name`, escaped, with leave to break the line after each underscore, hyphen, dot or slash."""
    return Markup("<wbr>").join(re.split(r"(?<=[_\-./])", name))


def _read_package_file(name: str) -> str:
    return files("aftermix.report").joinpath(name).read_text(encoding="utf-8")
