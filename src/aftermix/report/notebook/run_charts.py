"""The charts of a run's report, one by one: shown in a notebook, or saved as files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from markupsafe import Markup

from aftermix.files import write_atomically
from aftermix.report.context import build_context
from aftermix.report.page import ReportCharts, draw_charts, read_style
from aftermix.runs.reader import RunContents

SCORES = "#3e4989 #365d8d #2e6f8e #27808e #21918c #1fa287 #2eb37c #4cc26c #63cb5f #98d83e #b5de2b #d2e21b"
"""Levels of the score scale that stand out from a light page and from a dark one."""
COLOURS = {
    "ink": "currentColor",
    "muted": "color-mix(in srgb, currentColor 65%, transparent)",
    "line": "color-mix(in srgb, currentColor 18%, transparent)",
    "surface": "var(--jp-layout-color0, var(--vscode-editor-background, Canvas))",
    "accent": "#2f7fd0",
    "second": "#d2691e",
    "bad": "#d64545",
    **{f"score-{level}": colour for level, colour in enumerate(SCORES.split())},
}
"""Colours of a drawing in a notebook, whose background may be light or dark: its own ink is that of the text around."""


@dataclass(frozen=True)
class RunChart:
    """A drawing of a run, as inline SVG."""

    name: str
    svg: str
    """In the colours of CSS variables, which the page around it sets."""

    def save(self, file: str | Path) -> Path:
        """Write an SVG file in the colours of a light page, and return its path."""
        light = dict(re.findall(r"--([\w-]+): (#\w+);", read_style().partition("@media")[0]))
        svg = re.sub(r"var\(--([\w-]+)\)", lambda variable: light[variable[1]], self.svg)
        svg = re.sub(r'style="max-width:[^"]*"', 'style="font-family: sans-serif"', svg, count=1)
        write_atomically(Path(file), svg)
        return Path(file)

    def _repr_html_(self) -> str:
        """The drawing, whose ids are none of another drawing's on the page."""
        key = f"{self.name}-{sha256(self.svg.encode()).hexdigest()[:8]}-"
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}", self.svg)
        colours = ";".join(f"--{name}:{colour}" for name, colour in COLOURS.items())
        return f'<div style="overflow-x:auto;font-family:sans-serif;{colours}">{svg}</div>'

    def __repr__(self) -> str:
        return f"RunChart({self.name!r})"


class ChartSheet(Mapping[str, RunChart]):
    """The charts that a run has by their names, in the order of its report; shown all together."""

    def __init__(self, charts: Mapping[str, RunChart]) -> None:
        """`charts`: by name."""
        self._charts = dict(charts)

    @classmethod
    def draw(cls, run: RunContents) -> ChartSheet:
        """Those of `run`: `comparison`, `progress`, `space`, `pareto`, `optimism`, `scan`, as far as it has them.

        A kind that has several is numbered: `comparison_1`, ...
        """
        drawings = draw_charts(run, build_context(run))
        return cls({name: RunChart(name, str(drawing)) for name, drawing in _name_drawings(drawings)})

    def __getitem__(self, name: str) -> RunChart:
        return self._charts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._charts)

    def __len__(self) -> int:
        return len(self._charts)

    def __repr__(self) -> str:
        return f"ChartSheet({', '.join(self)})"

    def _repr_html_(self) -> str:
        return "".join(f"<h4>{name}</h4>{chart._repr_html_()}" for name, chart in self.items())


def _name_drawings(drawings: ReportCharts) -> Iterator[tuple[str, Markup]]:
    kinds = {
        "comparison": drawings.comparison,
        "progress": (drawings.progress,),
        "space": drawings.space.charts if drawings.space else (),
        "pareto": (drawings.pareto,),
        "optimism": (drawings.optimism,),
        "scan": (drawings.scan,),
    }
    for kind, several in kinds.items():
        for place, drawing in enumerate(several):
            if drawing is not None:
                yield (kind if len(several) == 1 else f"{kind}_{place + 1}"), drawing
