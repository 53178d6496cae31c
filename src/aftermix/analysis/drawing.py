"""One look for all pictures, and their bytes: the same figure gives the same SVG (fixed hash salt, no date)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, MUTED, STILL = "#1b1f24", "#57606a", "#d8dee4"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": STILL,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "aftermix",
    "text.color": INK,
    # Names come from users, and a dollar sign in one is no formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def render_figure(draw: Callable[[], Figure], *, kind: str) -> bytes:
    """The figure that `draw` makes, as `svg` or `png`."""
    # Over the defaults, so that the reader's own matplotlibrc changes nothing.
    with warnings.catch_warnings(), mpl.rc_context(dict(mpl.rcParamsDefault) | STYLE):
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {}
        draw().savefig(buffer, format=kind, metadata=metadata, dpi=144 if kind == "png" else 72)
    return buffer.getvalue()


def shorten_name(name: str, limit: int) -> str:
    """A name of at most `limit` letters."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
