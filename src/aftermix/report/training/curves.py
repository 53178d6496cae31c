"""Losses of one training over its tokens: of each step, and on held-out documents by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from aftermix.report.charts.svg import ACCENT, BAD, INK, LINE, MUTED, SECOND, Tooltips, add_legend_above, draw
from aftermix.report.number_format import shorten
from aftermix.runs.verification_records import StepLossRecord

WIDTH_PX, HEIGHT_PX = 1020, 340
SMOOTHED_OVER = 40
"""The mean line is over one part in so many of the steps."""
STYLES = tuple((colour, dashes) for dashes in ("-", "--", ":") for colour in (ACCENT, SECOND, BAD, INK))
"""Colour and line of each domain, in order."""
MOST_DRAWN_STEPS = 2000


@dataclass(frozen=True)
class LossCurves:
    """Losses by the tokens that were trained on until then."""

    steps: tuple[tuple[int, float], ...]
    """Tokens after each step, and its loss."""
    held_out: Mapping[str, tuple[tuple[int, float], ...]]
    """By domain."""

    @staticmethod
    def collect(lines: Sequence[StepLossRecord]) -> LossCurves:
        """Curves of a `losses.jsonl`."""
        held: dict[str, list[tuple[int, float]]] = {}
        for line in lines:
            for domain, loss in (line.held_out or {}).items():
                held.setdefault(domain, []).append((line.tokens, float(loss)))
        steps = tuple((line.tokens, float(line.loss)) for line in lines if line.loss is not None)
        return LossCurves(steps, {domain: tuple(points) for domain, points in held.items()})


def draw_curves(curves: LossCurves, *, name: str, number: int) -> Markup:
    """The drawing for the training called `name`, the `number`-th of its page."""
    return draw(
        lambda figure: _paint(figure, curves),
        name=f"losses{number}",
        label=f"Losses of {name} over the tokens of its training",
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
    )


def _paint(figure: Figure, curves: LossCurves) -> Tooltips:
    axes = figure.subplots()
    tokens, losses = (np.asarray(values, dtype=np.float64) for values in zip(*curves.steps, strict=True))
    stride = -(-len(tokens) // MOST_DRAWN_STEPS)
    axes.plot(tokens[::stride], losses[::stride], color=LINE, linewidth=1.0)
    mean_tokens, mean = _smooth(tokens, losses)
    axes.plot(mean_tokens, mean, color=MUTED, linewidth=1.6, label="training, mean over steps")

    tooltips: dict[str, Sequence[str]] = {}
    for place, (domain, points) in enumerate(curves.held_out.items()):
        tooltips |= _paint_held_out(axes, domain, points, place)

    axes.set_xlabel("tokens trained on")
    axes.set_ylabel("loss, nats a token")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    add_legend_above(axes, columns=4)
    return tooltips


def _paint_held_out(axes: Axes, domain: str, points: Sequence[tuple[int, float]], place: int) -> Tooltips:
    colour, dashes = STYLES[place % len(STYLES)]
    tokens, losses = zip(*points, strict=True)
    axes.plot(tokens, losses, color=colour, linestyle=dashes, linewidth=2.0, label=f"held out, {shorten(domain)}")
    gid = f"held{place}"
    axes.scatter(tokens, losses, s=22, color=colour, gid=gid, zorder=3)
    return {gid: [f"{domain}: {loss:.4f} after {count:,} tokens" for count, loss in points]}


def _smooth(tokens: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each window of consecutive steps, at its last."""
    width = max(1, len(losses) // SMOOTHED_OVER)
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    return tokens[width - 1 :], (sums[width:] - sums[:-width]) / width
