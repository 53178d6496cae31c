"""Four domains: a tetrahedron of mixtures that can be turned, as one HTML file with plotly inside it.

Each corner is one domain alone. Colour is what surrogates expect; the best mixtures are large, the others small, as in
MergeMix, figure 8, which shows the best 15% alone.
"""

from __future__ import annotations

from html import escape
from itertools import combinations
from typing import Any

import numpy as np

from aftermix.errors import ConfigError
from aftermix.extras import format_install
from aftermix.report.charts.barycentric import TETRAHEDRON, Floats, project_shares
from aftermix.report.charts.landscape import choose_quantity_scale, stack_rows
from aftermix.report.charts.landscape_colours import PAPER
from aftermix.report.number_format import ScoreScale
from aftermix.runs.landscape_records import ExpectedMixtureRecord, LandscapeRecord

# C mixtures, D = 3 dimensions

BEST_SHARE = 0.15
"""Of the mixtures, those that are drawn large."""
BEST_OPACITY, OTHERS_OPACITY = 0.4, 0.35
"""The optimum lies within a cloud of the best and must be seen through it."""
TRACES = 3
"""Of one quantity: the best mixtures, the others, the measured points."""


def refuse_without_plotly() -> None:
    """Raise :class:`ConfigError` where plotly is not installed."""
    try:
        import plotly.graph_objects  # noqa: F401
    except ImportError as error:
        problem = "a tetrahedron that can be turned needs plotly, which is not installed"
        raise ConfigError("--output", problem, f"{format_install('plots')}, or name a .svg or .png.") from error


def draw_tetrahedron(landscape: LandscapeRecord, *, title: str) -> str:
    """The page, some 5 MB with plotly. The same landscape gives the same text."""
    import plotly.graph_objects as plotly
    from plotly.io import to_html

    traces = [plotly.Scatter3d(**trace) for trace in _list_traces(landscape)]
    figure = plotly.Figure(data=traces, layout=_build_layout(landscape, title))
    return str(to_html(figure, include_plotlyjs=True, full_html=True, div_id="landscape", default_height="96vh"))


def _list_traces(landscape: LandscapeRecord) -> list[dict[str, Any]]:
    """Traces that are always there, then `TRACES` of each quantity, of which the first quantity's are shown."""
    edges = [_build_edge(first, second) for first, second in combinations(TETRAHEDRON, 2)]
    traces = [
        *edges,
        _label_corners(landscape),
        _mark_mixture(landscape.winner, landscape),
        _mark_mixture(landscape.optimum, landscape),
    ]
    for quantity in range(len(landscape.quantities)):
        traces += [trace | {"visible": quantity == 0} for trace in _trace_quantity(landscape, quantity)]
    return traces


def _build_layout(landscape: LandscapeRecord, title: str) -> dict[str, Any]:
    steady = len(_list_traces(landscape)) - TRACES * len(landscape.quantities)
    buttons = [
        {
            "label": escape(name),
            "method": "restyle",
            "args": [
                {
                    "visible": [True] * steady
                    + [q == quantity for q in range(len(landscape.quantities)) for _ in range(TRACES)]
                }
            ],
        }
        for quantity, name in enumerate(landscape.quantities)
    ]

    hidden = {"visible": False}
    return {
        "title": {"text": escape(title), "x": 0.01, "y": 0.98},
        "font": {"family": "system-ui, sans-serif", "color": PAPER.ink, "size": 14},
        "paper_bgcolor": "white",
        "margin": {"l": 0, "r": 0, "t": 100, "b": 0},
        "scene": {"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data",
                  "camera": {"eye": {"x": 1.1, "y": -1.5, "z": 0.7}}},
        "legend": {"x": 0.01, "y": 0.98, "itemsizing": "constant"},
        "updatemenus": [{"buttons": buttons, "x": 0.01, "y": 1.01, "xanchor": "left", "yanchor": "bottom"}],
    }  # fmt: skip


def _trace_quantity(landscape: LandscapeRecord, quantity: int) -> list[dict[str, Any]]:
    assert landscape.surface is not None  # noqa: S101 - there for four domains; for the type checker
    scale = choose_quantity_scale(landscape, quantity)

    # Mixtures within the limits that have a value, the best of them apart.
    shares_C4, values_C = np.array(landscape.surface.shares), stack_rows(landscape.surface.values)[:, quantity]
    inside_C = ((shares_C4 >= np.array(landscape.low) - 1e-9) & (shares_C4 <= np.array(landscape.high) + 1e-9)).all(
        axis=1
    )
    shown_C = inside_C & np.isfinite(values_C)
    shares_C4, values_C = shares_C4[shown_C], scale.factor * values_C[shown_C]
    best_C = values_C >= np.quantile(values_C, 1 - BEST_SHARE) if len(values_C) else np.zeros(0, dtype=bool)
    ends = (float(values_C.min()), float(values_C.max())) if len(values_C) else (0.0, 1.0)

    measured_N4 = np.array([point.shares for point in landscape.measured])
    measured_N = scale.factor * stack_rows(tuple(point.values for point in landscape.measured))[:, quantity]

    best = _build_cloud(
        shares_C4[best_C], values_C[best_C], landscape, scale, ends, f"best {BEST_SHARE:.0%} by prediction", 6
    )
    bar = {"title": {"text": escape(landscape.quantities[quantity])}, "thickness": 14, "len": 0.6}
    best["marker"] |= {"showscale": True, "colorbar": bar}
    others = _build_cloud(shares_C4[~best_C], values_C[~best_C], landscape, scale, ends, "other mixtures", 2)
    return [
        best | {"opacity": BEST_OPACITY},
        others | {"opacity": OTHERS_OPACITY},
        _build_cloud(measured_N4, measured_N, landscape, scale, ends, "measured", 6, symbol="diamond"),
    ]


def _build_cloud(
    shares_C4: Floats, values_C: Floats, landscape: LandscapeRecord, scale: ScoreScale, ends: tuple[float, float],
    name: str, size: int, *, symbol: str = "circle",
) -> dict[str, Any]:  # fmt: skip
    x_C, y_C, z_C = _list_coordinates(shares_C4)
    marker = {
        "size": size, "symbol": symbol, "color": _round_values(values_C), "colorscale": "Viridis", "cmin": ends[0],
        "cmax": ends[1],
        "line": {"color": PAPER.ink if symbol == "diamond" else "white", "width": 1 if symbol == "diamond" else 0},
    }  # fmt: skip
    texts = [
        _describe_mixture(row, landscape, f"{value:.3g} {scale.unit}")
        for row, value in zip(shares_C4, values_C, strict=True)
    ]
    return {"x": x_C, "y": y_C, "z": z_C, "mode": "markers", "marker": marker, "name": name, "text": texts,
            "hoverinfo": "text"}  # fmt: skip


def _label_corners(landscape: LandscapeRecord) -> dict[str, Any]:
    away_43 = TETRAHEDRON + 0.12 * (TETRAHEDRON - TETRAHEDRON.mean(axis=0))
    x, y, z = (_round_values(column) for column in away_43.T)
    return {"x": x, "y": y, "z": z, "mode": "text", "text": [f"<b>{escape(name)}</b>" for name in landscape.domains],
            "showlegend": False, "hoverinfo": "skip"}  # fmt: skip


def _build_edge(first: Floats, second: Floats) -> dict[str, Any]:
    x, y, z = (_round_values(column) for column in np.stack([first, second]).T)
    return {"x": x, "y": y, "z": z, "mode": "lines", "line": {"color": PAPER.muted, "width": 3}, "showlegend": False,
            "hoverinfo": "skip"}  # fmt: skip


def _mark_mixture(mixture: ExpectedMixtureRecord, landscape: LandscapeRecord) -> dict[str, Any]:
    x, y, z = _list_coordinates(np.array([mixture.shares]))
    best = mixture is landscape.optimum
    marker = {"size": 9 if best else 13, "symbol": "cross" if best else "circle-open",
              "color": PAPER.ink if best else PAPER.winner, "line": {"width": 4}}  # fmt: skip
    name = "optimum by prediction" if best else "winner"
    return {"x": x, "y": y, "z": z, "mode": "markers", "marker": marker, "name": name,
            "text": [_describe_mixture(np.array(mixture.shares), landscape, name)], "hoverinfo": "text"}  # fmt: skip


def _list_coordinates(shares_C4: Floats) -> tuple[list[float], ...]:
    points_C3 = project_shares(shares_C4.reshape(-1, 4), TETRAHEDRON)
    return tuple(_round_values(column) for column in points_C3.T)


def _round_values(values: Floats) -> list[float]:
    """Lists, which plotly writes as readable numbers; three digits are below what a screen shows."""
    return [round(float(value), 4) for value in values]


def _describe_mixture(shares_4: Floats, landscape: LandscapeRecord, heading: str) -> str:
    shares = ", ".join(f"{escape(name)} {share:.2f}" for name, share in zip(landscape.domains, shares_4, strict=True))
    return f"{heading}<br>{shares}"
