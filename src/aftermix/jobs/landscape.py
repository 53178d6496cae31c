"""Utility and capabilities over all mixtures, by the surrogates of a mixture run: as a file of the run, as a picture.

Surrogates are a function of the measured points, so they are fitted again instead of stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from aftermix.analysis.drawing import render_figure
from aftermix.analysis.geometry import measure_geometry
from aftermix.analysis.mixture_landscape import build_slices, build_surface, round_values
from aftermix.checkpoints.pool import ModelPool
from aftermix.command_end import join_command
from aftermix.errors import ConfigError, MixtureError
from aftermix.files import write_atomically
from aftermix.jobs.mixture.points import FittedSurrogates, read_fitted
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.tree_problem import build_level_problem
from aftermix.jobs.run_folder.comparison import refuse_other_kind
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.mixture.optimum import predict_mixture
from aftermix.mixture.simplex import Floats
from aftermix.mixture.utility import MixtureUtility
from aftermix.report.charts.landscape import is_triangle
from aftermix.report.charts.landscape_colours import PAPER
from aftermix.report.charts.landscape_slices import measure_slices_px, paint_all_slices
from aftermix.report.charts.landscape_tetrahedron import draw_tetrahedron, refuse_without_plotly
from aftermix.report.charts.landscape_triangle import measure_triangles_px, paint_triangles
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.journal import read_trials
from aftermix.runs.landscape_records import COSINES_FILE, LANDSCAPE_FILE, CosinesRecord, LandscapeRecord
from aftermix.runs.mixture_records import FoundMixtureRecord, LevelRecord, MixtureRecord, SearchedLevelRecord
from aftermix.runs.reader import LEVELS_FOLDER, read_level
from aftermix.runs.records import BEST_FILE
from aftermix.runs.trials import Trial

# N points, C candidates, K domains, M capabilities, T columns of scores, Q quantities: the utility and M capabilities

FORMATS = ("svg", "png", "html")
TURNED = 4
"""Domains whose mixtures are a body that can be turned."""


def draw_landscape(run: Path, output: Path) -> Path:
    """Draw the landscape of the finished mixture run `run`, or of a group in its `levels/`, into the file `output`.

    It ends in `.svg`, `.png` or `.html`. Three domains give a triangle, four in `.html` a tetrahedron that can be
    turned, all else slices from the optimum. Raises :class:`AftermixError` for a run that is none of a mixture or not
    finished, and, for a tetrahedron, without plotly.
    """
    kind = output.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        found = f"expected a name that ends in .svg, .png or .html, found '{output}'"
        raise ConfigError("--output", found, "Name the picture by its kind.")

    turned = kind == "html" and len(_read_finished(run)[0].domains) == TURNED
    if turned:
        refuse_without_plotly()

    landscape = read_again(run)
    title = f"Landscape of {run.name}"
    if turned:
        write_atomically(output, draw_tetrahedron(landscape, title=title))
    elif kind == "html":
        write_atomically(output, build_page(draw_picture(landscape, kind="svg"), title=title))
    else:
        write_atomically(output, draw_picture(landscape, kind=kind))
    return output


def read_again(run: Path) -> LandscapeRecord:
    """The landscape of the finished mixture run `run`, or of a group of a tree, from problem, trials and result."""
    problem, best = _read_finished(run)
    if isinstance(best, LevelRecord) and not isinstance(best, SearchedLevelRecord):
        raise MixtureError(str(run), best.note or "has no optimum", "Name another group.")
    trials = read_trials(run)
    return build_landscape(problem, FittedSurrogates.fit(problem, trials, run=run), trials, best)


def _read_finished(run: Path) -> tuple[MixtureProblem, FoundMixtureRecord | LevelRecord]:
    """The problem and `best.json` of the finished run, or group, in `run`."""
    is_group = run.parent.name == LEVELS_FOLDER and not (run / CONFIG_FILE).is_file()
    whole = run.parent.parent if is_group else run
    config = read_run_config(whole)
    refuse_other_kind(whole, mixture=True)

    if not (run / BEST_FILE).is_file():
        remedy = f"Go on with it: `{join_command('aftermix', 'mixture', '--resume', whole)}`."
        raise MixtureError(str(run), "the run is not finished, so it has no optimum", remedy)

    level = read_level(run) if is_group else None
    if level is not None:
        return build_level_problem(config, whole, run.name), level

    levels = run / LEVELS_FOLDER
    if levels.is_dir():
        names = ", ".join(sorted(path.name for path in levels.iterdir()))
        raise MixtureError(
            str(run), f"each group of its tree has a landscape of its own ({names})", f"Name {levels}/GROUP."
        )
    problem = MixtureProblem.build_flat(config, fitted=read_fitted(run))
    return problem, MixtureRecord.read(run / BEST_FILE)


def write_landscape(
    run: Path, *, problem: MixtureProblem, fitted: FittedSurrogates, trials: Sequence[Trial], best: FoundMixtureRecord
) -> None:
    """Write `landscape.json` into `run`, for its report."""
    build_landscape(problem, fitted, trials, best).write(run / LANDSCAPE_FILE)


def write_cosines(run: Path, pool: ModelPool) -> None:
    """Write `cosines.json`, the angles between the vectors of `pool`, into `run`; reads all weights once."""
    geometry = measure_geometry(pool)
    values = {"vectors": geometry.vectors, "cosines": round_values(geometry.whole.cosines)}
    CosinesRecord.model_validate(values).write(run / COSINES_FILE)


def build_landscape(
    problem: MixtureProblem, fitted: FittedSurrogates, trials: Sequence[Trial], best: FoundMixtureRecord
) -> LandscapeRecord:
    """The landscape that the `fitted` surrogates promise; `best` is the run's result, which holds their optimum."""
    quantities = _LandscapeQuantities(problem, fitted)
    shares = {name: best.optimum.shares[name] for name in problem.domains}
    optimum_K = np.array(list(shares.values()))

    won_K = np.array([best.won.shares[name] for name in problem.domains])

    complete = [trial.number for trial in trials if trial.is_complete]
    measured_NQ = quantities.tabulate(fitted.scores_NM)
    points = zip(complete, round_values(fitted.shares_NK), round_values(measured_NQ), strict=True)

    low_K, high_K = problem.bounds.low_K, problem.bounds.high_K
    return LandscapeRecord.model_validate(
        {
            "domains": problem.domains,
            "capabilities": tuple(problem.capabilities),
            "low": low_K.tolist(),
            "high": high_K.tolist(),
            "measured": [{"trial": trial, "shares": row, "values": values} for trial, row, values in points],
            "optimum": {"name": "optimum", "shares": optimum_K.tolist(), "values": quantities.predict_at(optimum_K)},
            "winner": {"name": best.won.name, "shares": won_K.tolist(), "values": quantities.predict_at(won_K)},
            "surface": build_surface(quantities.predict_mean, domains=len(problem.domains)),
            "slices": build_slices(
                quantities.predict_band, center_K=optimum_K, low_K=low_K, high_K=high_K, points_NK=fitted.shares_NK
            ),
        }
    )


class _LandscapeQuantities:
    """Utility and capabilities of mixtures, by the surrogates."""

    def __init__(self, problem: MixtureProblem, fitted: FittedSurrogates) -> None:
        self._surrogate = fitted.surrogate
        self._utility: MixtureUtility = problem.build_utility(fitted.scores_NM)
        self._seed = problem.mixture.seed

    def tabulate(self, scores_CT: Floats) -> Floats:
        """(C, Q): the utility of the scores, and those of the capabilities."""
        return np.column_stack([self._utility.values(scores_CT), self._utility.score_capabilities(scores_CT)])

    def predict_mean(self, weights_CK: Floats) -> Floats:
        """(C, Q) the predictions."""
        return self.tabulate(self._surrogate.mean(weights_CK))

    def predict_at(self, weights_K: Floats) -> object:
        """(Q) the predictions of one mixture, as plain values."""
        return round_values(self.predict_mean(weights_K[None]))[0]

    def predict_band(self, weights_CK: Floats) -> tuple[Floats, Floats, Floats]:
        """(C, Q) the predictions, and the ends of a measurement: 95% of the utility's, two deviations of a score."""
        mean_CT = self._surrogate.mean(weights_CK)
        mean_CM = self._utility.score_capabilities(mean_CT)
        predictions = [predict_mixture(self._surrogate, self._utility, row_K, seed=self._seed) for row_K in weights_CK]
        low_C2, high_C2 = np.array([prediction.interval for prediction in predictions]).T
        std_CM = np.stack([prediction.std_M for prediction in predictions])
        return (
            self.tabulate(mean_CT),
            np.column_stack([low_C2, mean_CM - 2 * std_CM]),
            np.column_stack([high_C2, mean_CM + 2 * std_CM]),
        )


def draw_picture(landscape: LandscapeRecord, *, kind: str) -> bytes:
    """Triangles for three domains, else slices, as `kind`, `svg` or `png`."""
    from matplotlib.figure import Figure

    size = measure_triangles_px(landscape) if is_triangle(landscape) else measure_slices_px(landscape)

    def figure() -> Figure:
        canvas = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        if is_triangle(landscape):
            paint_triangles(canvas, landscape, PAPER)
        else:
            paint_all_slices(canvas, landscape, PAPER)
        return canvas

    return render_figure(figure, kind=kind)


def build_page(drawing: bytes, *, title: str) -> str:
    """An SVG as an HTML document."""
    text = drawing.decode()
    # A document of its own begins with a declaration that has no place in a page.
    inline = text[text.index("<svg") :]
    head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
    return f'{head}<body style="margin:2em;background:#fff">\n{inline}</body>\n</html>\n'
