"""The colours of a landscape: the page's own, which follow its scheme, or fixed ones for a picture on white."""

from __future__ import annotations

from dataclasses import dataclass

from aftermix.report.charts import svg


@dataclass(frozen=True)
class LandscapePalette:
    """Colours by role; `scores` from low to high."""

    ink: str
    muted: str
    line: str
    surface: str
    accent: str
    winner: str
    scores: tuple[str, ...]


PAGE = LandscapePalette(svg.INK, svg.MUTED, svg.LINE, svg.SURFACE, svg.ACCENT, svg.SECOND, svg.SCORES)
# The light scheme of style.css; viridis, ordered in lightness and safe for the colour-blind.
_VIRIDIS = "440154 481f70 443a83 3b528b 30698e 277e8e 20928c 21a685 3aba76 63cb5f 98d83e d2e21b"
PAPER = LandscapePalette(
    "#191d22", "#57606b", "#dde2e7", "#ffffff", "#0a5cad", "#a84c00", tuple(f"#{cut}" for cut in _VIRIDIS.split())
)
