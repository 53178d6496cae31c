"""One self-contained HTML file from a run folder: no script, no network, no font, nothing read but the run."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from aftermix.files import write_atomically
from aftermix.report.charts import result as charts
from aftermix.report.charts.landscape import read_cosines, read_landscape
from aftermix.report.charts.result import Entry
from aftermix.report.charts.weight_space import weight_space
from aftermix.report.context import View, build_view
from aftermix.report.sections.landscape import LandscapeSection, landscape_section
from aftermix.report.sections.mixture import MixtureRecord, mixture_section, read_mixture
from aftermix.report.sections.mixture_tree import TreeSection, read_tree
from aftermix.report.sections.shares import Shares, read_shares, share_section
from aftermix.report.sections.verification import VerificationRecord, read_verification, verification_section
from aftermix.report.trials import measured, nondominated
from aftermix.report.verdict import Judged
from aftermix.runs.reader import Run, read_run
from aftermix.runs.records import Best


def write_report(run: Path) -> Path:
    """Write `run`/report.html from the files of the run folder, finished or not, and return its path.

    The same run folder gives the same bytes. Raises :class:`AftermixError` when `run` is no run folder or one of its
    files is damaged; the old report is kept then.
    """
    path = run / "report.html"
    found, verification = read_run(run), read_verification(run)
    mixture, tree = read_mixture(run), read_tree(run)
    landscape = landscape_section(read_landscape(run), read_cosines(run))

    page = render(
        found, shares=read_shares(run), mixture=mixture, tree=tree, verification=verification, landscape=landscape
    )
    write_atomically(path, page)
    return path


def render(
    run: Run,
    *,
    shares: Shares | None = None,
    mixture: MixtureRecord | None = None,
    tree: TreeSection | None = None,
    verification: VerificationRecord | None = None,
    landscape: LandscapeSection | None = None,
) -> str:
    """The page for `run`, with what its vectors got where that is known, and the mixture that it found and trained."""
    environment = Environment(
        loader=FunctionLoader(_package_file), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["breakable"] = _breakable

    view = build_view(run)
    # The style sheet is ours; no name of the user's is put into it.
    style = Markup(_package_file("style.css"))  # noqa: S704
    return environment.get_template("template.html").render(
        view=view,
        charts=_drawings(run, view),
        shares=share_section(shares),
        mixture=mixture_section(mixture),
        tree=tree,
        verification=verification_section(verification),
        landscape=landscape,
        style=style,
    )


def _drawings(run: Run, view: View) -> dict[str, object]:
    winner = run.best.winner.trial if run.best else None
    drawings: dict[str, object] = {
        "progress": charts.progress(run.trials, names=view.objectives, winner=winner, scale=view.scale)
        if measured(run.trials)
        else None,
        "space": weight_space(run.trials, vectors=_axes(run), winner=winner, scale=view.scale),
        "pareto": _front(run, view, winner),
        "comparison": (),
        "optimism": None,
        "scan": None,
    }
    return drawings | _result_drawings(run.best, view.judged, view) if run.best and view.judged else drawings


def _axes(run: Run) -> tuple[str, ...]:
    """Axes of the weight space: weights that were searched, and settings that are numbers."""
    settings = run.trials[0].settings if run.trials else {}
    numbers = [name for name, value in settings.items() if isinstance(value, int | float) and type(value) is not bool]
    return (*(run.config.vectors if run.config.search.over.weights else ()), *numbers)


def _front(run: Run, view: View, winner: int | None) -> Markup | None:
    front = (run.best and run.best.front) or nondominated(run.trials)
    if len(view.objectives) < 2 or not front:
        return None
    return charts.pareto(run.trials, front=front, names=view.objectives, winner=winner, scale=view.scale)


def _result_drawings(best: Best, judged: Judged, view: View) -> dict[str, object]:
    return {
        "comparison": tuple(
            charts.comparison(
                _entries(judged.best, place), objective=place, scale=judged.scale, title=_axis(judged, place)
            )
            for place in range(len(judged.names))
            if best.baselines
        ),
        "optimism": charts.optimism(
            best.candidates, winner=best.winner.trial, search=best.search, select=best.select, test=best.test,
            scale=view.scale,
        ),
        "scan": charts.scan(
            best.scan, chosen=best.weights.get(best.scan.vector), objectives=len(view.objectives), scale=view.scale
        )
        if best.scan and best.scan.points
        else None,
    }  # fmt: skip


def _entries(best: Best, objective: int) -> list[Entry]:
    entries = [Entry("winner", best.test, winner=True)]
    entries += [Entry(baseline.name, baseline.test, winner=False) for baseline in best.baselines]
    return sorted(entries, key=lambda entry: -entry.test.objective[objective])


def _axis(judged: Judged, place: int) -> str:
    return "test score" if len(judged.names) == 1 else f"test score, {judged.names[place]}"


def _breakable(name: str) -> Markup:
    """`name`, escaped, with leave to break the line after each underscore, hyphen, dot or slash."""
    return Markup("<wbr>").join(re.split(r"(?<=[_\-./])", name))


def _package_file(name: str) -> str:
    return files("aftermix.report").joinpath(name).read_text(encoding="utf-8")
