"""A matplotlib figure as inline SVG that takes its colours and fonts from the page it stands in.

Figures are drawn in sentinel colours (`INK`, `ACCENT`, ...), which become CSS variables, so that one drawing follows
the light and the dark scheme. Text stays text. The same figure gives the same bytes: fixed hash salt, no date.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE, SURFACE, ACCENT, SECOND, BAD = (f"#0{place}0{place}0{place}" for place in range(1, 8))
SCORES = tuple(f"#0900{level:02x}" for level in range(12))
"""Levels of the score scale, low to high: cuts of viridis (ordered in lightness, safe for the colour-blind) that the
style sheet chooses for each scheme, so that either end stands out from the page."""

_VARIABLES = dict(
    zip(
        (INK, MUTED, LINE, SURFACE, ACCENT, SECOND, BAD),
        ("ink", "muted", "line", "surface", "accent", "second", "bad"),
        strict=True,
    )
) | {colour: f"score-{level}" for level, colour in enumerate(SCORES)}
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "legend.edgecolor": "none",
    "legend.facecolor": SURFACE,
    "legend.fontsize": 12,
    "legend.framealpha": 0.85,
    "legend.handletextpad": 0.4,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.4,
    # Names come from users, and a dollar sign in one is no formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelsize": 11,
    "ytick.color": MUTED,
    "ytick.labelsize": 11,
}
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"

Tooltips = Mapping[str, Sequence[str]]
"""Text of every mark of a collection, in drawing order, by the collection's gid."""


def draw(paint: Callable[[Figure], Tooltips], *, name: str, label: str, width_px: float, height_px: float) -> Markup:
    """The SVG of what `paint` draws on an empty figure of `width_px` by `height_px` (its natural size).

    `name` keeps the ids of several drawings on one page apart; `label` is read out by screen readers.
    """
    # Over the defaults, so that the reader's own matplotlibrc changes nothing.
    with warnings.catch_warnings(), mpl.rc_context(dict(mpl.rcParamsDefault) | _STYLE | {"svg.hashsalt": name}):
        # One point is one unit of the view box, so font sizes are CSS pixels at the natural size.
        figure = Figure(figsize=(width_px / 72, height_px / 72), dpi=72, layout="constrained")
        tooltips = paint(figure)
        buffer = io.BytesIO()
        # The font that measures lacks some scripts; the reader's browser, which draws the text, has them.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue().decode(), name=name, label=label, tooltips=tooltips, width_px=width_px)


def add_legend_above(target: Axes | Figure, *, columns: int) -> None:
    """The legend in a row above the drawing, where it hides no mark."""
    if isinstance(target, Figure):
        target.legend(loc="outside upper left", ncols=columns, handlelength=1.4)
    else:
        target.legend(
            loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, handlelength=1.4, labelcolor=MUTED, frameon=False
        )


def _inline(svg: str, *, name: str, label: str, tooltips: Tooltips, width_px: float) -> Markup:
    ET.register_namespace("", _SVG[1:-1])
    ET.register_namespace("xlink", _XLINK[1:-1])
    root = ET.fromstring(svg)  # noqa: S314  our own drawing, not a stranger's file
    _drop_document_parts(root)
    for gid, texts in tooltips.items():
        _add_titles(root, gid, texts)
    _prefix_ids(root, name)
    # Smaller than this its text is no longer readable: the page scrolls the drawing inside its own box.
    style = f"max-width:{width_px:.0f}px;min-width:{0.84 * width_px:.0f}px"
    root.attrib.update({"role": "img", "aria-label": label, "style": style})
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    text = ET.tostring(root, encoding="unicode")
    # Every piece of text in it was escaped by the XML writer.
    return Markup(_replace_colours(_compact_svg(text)))  # noqa: S704


def _drop_document_parts(root: ET.Element) -> None:
    """Metadata, and matplotlib's `<style>*{...}</style>`, which inside a page would style the whole page."""
    for element in root.findall(f"{_SVG}metadata"):
        root.remove(element)
    for definitions in root.iter(f"{_SVG}defs"):
        for style in definitions.findall(f"{_SVG}style"):
            definitions.remove(style)


def _add_titles(root: ET.Element, gid: str, texts: Sequence[str]) -> None:
    """Give the n-th mark of the collection `gid` the n-th text as a tooltip."""
    group = root.find(f".//*[@id='{gid}']")
    if group is None:
        return
    defined = {id(mark) for definitions in group.iter(f"{_SVG}defs") for mark in definitions.iter()}
    marks = [mark for mark in group.iter() if mark.tag in (f"{_SVG}use", f"{_SVG}path") and id(mark) not in defined]
    for mark, text in zip(marks, texts, strict=True):
        ET.SubElement(mark, f"{_SVG}title").text = text


def _prefix_ids(root: ET.Element, name: str) -> None:
    """Drop ids that nothing refers to, and put `name` before the rest, in definitions and in references alike."""
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", ET.tostring(root, encoding="unicode")))
    for element in root.iter():
        if (identifier := element.attrib.pop("id", None)) in used:
            element.set("id", f"{name}-{identifier}")
        if (link := element.attrib.get(f"{_XLINK}href", "")).startswith("#"):
            element.set(f"{_XLINK}href", f"#{name}-{link[1:]}")
        if "clip-path" in element.attrib:
            element.set("clip-path", element.attrib["clip-path"].replace("url(#", f"url(#{name}-"))


def _compact_svg(svg: str) -> str:
    """Numbers to a hundredth of a pixel, no font family (the page sets it), no indentation."""
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    return re.sub(r">\s+<", "><", svg)


def _replace_colours(svg: str) -> str:
    return re.sub("|".join(_VARIABLES), lambda colour: f"var(--{_VARIABLES[colour[0]]})", svg)
