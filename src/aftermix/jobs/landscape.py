"""Utility and capabilities over all mixtures, by the surrogates of a mixture run: as a file of the run, as a picture.

Surrogates are a function of the measured points, so they are fitted again instead of stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from aftermix.analysis.drawing import rendered
from aftermix.analysis.geometry import measure
from aftermix.analysis.mixture_landscape import rounded, slice_records, surface_record
from aftermix.checkpoints.pool import Pool
from aftermix.errors import ConfigError, MixtureError
from aftermix.files import write_atomically, write_json
from aftermix.jobs.mixture.points import Learned
from aftermix.jobs.mixture.problem import Setting
from aftermix.jobs.mixture.tree_problem import LEVELS, level_setting
from aftermix.jobs.run_folder import BEST, CONFIG, read_run_config, refuse_other_kind
from aftermix.mixture.optimum import predicted
from aftermix.mixture.simplex import Floats
from aftermix.mixture.utility import Utility
from aftermix.report.charts.landscape import COSINES, LANDSCAPE, Landscape
from aftermix.report.charts.landscape_colours import PAPER
from aftermix.report.charts.landscape_slices import paint_all_slices, slices_size_px
from aftermix.report.charts.landscape_tetrahedron import refuse_without_plotly, tetrahedron
from aftermix.report.charts.landscape_triangle import paint_triangles, triangles_size_px
from aftermix.runs.journal import read_trials
from aftermix.runs.trials import Trial

# N points, C candidates, K domains, M capabilities, Q quantities: the utility and M capabilities

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

    turned = kind == "html" and len(_found(run)[0].domains) == TURNED
    if turned:
        refuse_without_plotly()

    landscape = read_again(run)
    title = f"Landscape of {run.name}"
    if turned:
        write_atomically(output, tetrahedron(landscape, title=title))
    elif kind == "html":
        write_atomically(output, page(picture(landscape, kind="svg"), title=title))
    else:
        write_atomically(output, picture(landscape, kind=kind))
    return output


def read_again(run: Path) -> Landscape:
    """The landscape of the finished mixture run `run`, or of a group of a tree, from problem, trials and result."""
    setting, best = _found(run)
    if "optimum" not in best:
        raise MixtureError(str(run), best.get("note") or "has no optimum", "Name another group.")
    trials = read_trials(run)
    return landscape_of(setting, Learned.of(setting, trials), trials, best)


def _found(run: Path) -> tuple[Setting, dict[str, Any]]:
    """The problem and `best.json` of the finished run, or group, in `run`."""
    is_group = run.parent.name == LEVELS and not (run / CONFIG).is_file()
    whole = run.parent.parent if is_group else run
    config = read_run_config(whole)
    refuse_other_kind(whole, mixture=True)

    if not (run / BEST).is_file():
        remedy = f"Go on with it: `aftermix mixture --resume {whole}`."
        raise MixtureError(str(run), "the run is not finished, so it has no optimum", remedy)

    best = json.loads((run / BEST).read_text(encoding="utf-8"))
    if is_group:
        return level_setting(config, whole, run.name), best
    if (run / LEVELS).is_dir():
        names = ", ".join(sorted(path.name for path in (run / LEVELS).iterdir()))
        raise MixtureError(
            str(run), f"each group of its tree has a landscape of its own ({names})", f"Name {run}/{LEVELS}/GROUP."
        )
    return Setting.of(config), best


def write_landscape(
    run: Path, *, setting: Setting, learned: Learned, trials: Sequence[Trial], best: Mapping[str, Any]
) -> None:
    """Write `landscape.json` into `run`, for its report."""
    write_json(run / LANDSCAPE, landscape_of(setting, learned, trials, best).model_dump(mode="json"))


def write_cosines(run: Path, pool: Pool) -> None:
    """Write `cosines.json`, the angles between the vectors of `pool`, into `run`; reads all weights once."""
    geometry = measure(pool)
    write_json(run / COSINES, {"vectors": list(geometry.vectors), "cosines": rounded(geometry.whole.cosines)})


def landscape_of(setting: Setting, learned: Learned, trials: Sequence[Trial], best: Mapping[str, Any]) -> Landscape:
    """The landscape that the `fitted` surrogates promise; `best` is the run's result, which holds their optimum."""
    quantities = _Quantities(setting, learned)
    shares = {name: best["optimum"]["shares"][name] for name in setting.domains}
    optimum_K = np.array(list(shares.values()))

    won = next(entry for entry in best["verified"] if entry["name"] == best["winner"]["point"])
    won_K = np.array([won["shares"][name] for name in setting.domains])

    complete = [trial.number for trial in trials if trial.is_complete]
    measured_NQ = quantities.table(learned.scores_NM)
    points = zip(complete, rounded(learned.shares_NK), rounded(measured_NQ), strict=True)

    low_K, high_K = setting.bounds.low_K, setting.bounds.high_K
    return Landscape.model_validate(
        {
            "domains": setting.domains,
            "capabilities": tuple(setting.capabilities),
            "low": low_K.tolist(),
            "high": high_K.tolist(),
            "measured": [{"trial": trial, "shares": row, "values": values} for trial, row, values in points],
            "optimum": {"name": "optimum", "shares": optimum_K.tolist(), "values": quantities.at(optimum_K)},
            "winner": {"name": won["name"], "shares": won_K.tolist(), "values": quantities.at(won_K)},
            "surface": surface_record(quantities.expected, domains=len(setting.domains)),
            "slices": slice_records(
                quantities.banded, center_K=optimum_K, low_K=low_K, high_K=high_K, points_NK=learned.shares_NK
            ),
        }
    )


class _Quantities:
    """Utility and capabilities of mixtures, by the surrogates."""

    def __init__(self, setting: Setting, learned: Learned) -> None:
        self._surrogate = learned.surrogate
        self._utility: Utility = setting.utility(learned.scores_NM)
        self._seed = setting.mixture.seed

    def table(self, scores_CM: Floats) -> Floats:
        """(C, Q): the utility of the scores, and the scores."""
        return np.column_stack([self._utility.values(scores_CM), scores_CM])

    def expected(self, weights_CK: Floats) -> Floats:
        """(C, Q) the predictions."""
        return self.table(self._surrogate.mean(weights_CK))

    def at(self, weights_K: Floats) -> object:
        """(Q) the predictions of one mixture, as plain values."""
        return rounded(self.expected(weights_K[None]))[0]

    def banded(self, weights_CK: Floats) -> tuple[Floats, Floats, Floats]:
        """(C, Q) the predictions, and the ends of a measurement: 95% of the utility's, two deviations of a score."""
        mean_CM, std_CM = self._surrogate.predict(weights_CK)
        found = [predicted(self._surrogate, self._utility, row_K, seed=self._seed) for row_K in weights_CK]
        low_C2, high_C2 = np.array([one.interval for one in found]).T
        return (
            self.table(mean_CM),
            np.column_stack([low_C2, mean_CM - 2 * std_CM]),
            np.column_stack([high_C2, mean_CM + 2 * std_CM]),
        )


def picture(landscape: Landscape, *, kind: str) -> bytes:
    """Triangles for three domains, else slices, as `kind`, `svg` or `png`."""
    from matplotlib.figure import Figure

    size = triangles_size_px(landscape) if landscape.is_triangle else slices_size_px(landscape)

    def figure() -> Figure:
        made = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        if landscape.is_triangle:
            paint_triangles(made, landscape, PAPER)
        else:
            paint_all_slices(made, landscape, PAPER)
        return made

    return rendered(figure, kind=kind)


def page(drawing: bytes, *, title: str) -> str:
    """An SVG as an HTML document."""
    text = drawing.decode()
    # A document of its own begins with a declaration that has no place in a page.
    inline = text[text.index("<svg") :]
    head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
    return f'{head}<body style="margin:2em;background:#fff">\n{inline}</body>\n</html>\n'
