"""The mixing desk of a report as a page of its own, which a notebook shows in a frame."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from aftermix.errors import SearchError
from aftermix.files import write_atomically
from aftermix.report.page import open_templates, read_style
from aftermix.report.sections.desk import build_desk_section
from aftermix.runs.reader import RunContents

HEIGHT_PX = 760
"""Of the frame; a longer desk scrolls within, and the frame's corner can be pulled."""


@dataclass(frozen=True)
class MixingDesk:
    """Sliders that predict the scores of any merge of a run, in a page that fetches nothing."""

    run: Path
    html: str
    """The whole page."""

    @classmethod
    def build(cls, run: RunContents) -> MixingDesk:
        """The desk of `run`. Raises :class:`SearchError` for a run without a stored response."""
        section = build_desk_section(run)
        if section is None:
            remedy = (
                "Take a run of `search` that keeps log-likelihoods (`strategy: response`); `run.charts` has any run's."
            )
            raise SearchError(str(run.folder), "expected a run with a stored response, found none", remedy)
        template = open_templates().get_template("notebook/desk_page.html")
        return cls(run.folder, template.render(desk=section, title=run.folder.resolve().name, style=read_style()))

    def save(self, file: str | Path) -> Path:
        """Write the page, and return its path."""
        write_atomically(Path(file), self.html)
        return Path(file)

    def _repr_html_(self) -> str:
        """The page in a frame that runs its own script and reaches nothing."""
        style = f"width:100%;height:{HEIGHT_PX}px;border:0;resize:vertical;overflow:auto"
        page = escape(self.html)
        return f'<iframe title="Mixing desk" sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'

    def __repr__(self) -> str:
        return f"MixingDesk({str(self.run)!r})"
