"""The progress bar of a notebook: HTML that is replaced in its place, and no control codes.

tqdm's own bar for notebooks needs ipywidgets, and of a saved notebook nothing of it is left. This one needs what every
kernel has, and a saved or converted notebook shows where the work ended.
"""

from __future__ import annotations

from html import escape
from typing import Any

from tqdm import tqdm

KNOWN_TOTAL = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
UNKNOWN_TOTAL = "{n_fmt} {unit} [{elapsed}, {rate_fmt}{postfix}]"
REFRESH_S = 0.25
"""Least time between two pictures: each is a message to the browser."""
STYLE = "display:flex;flex-wrap:wrap;align-items:center;gap:0 0.8em;font-variant-numeric:tabular-nums"


class NotebookBar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar, shown as a cell's output; text where a front end shows no HTML."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """`arguments` and `options`: those of tqdm."""
        self._picture: Any = None
        self._is_late = options.get("delay", 0) > 0
        # tqdm writes nothing itself for a bar that is none of a terminal (`gui`).
        super().__init__(*arguments, **{"mininterval": REFRESH_S, **options, "gui": True})
        if not self.disable and not self._is_late:
            self.display()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002 - tqdm's own signature
        """Show the bar as it stands, in the place of the picture before."""
        from IPython.display import display

        label, words = self.desc.removesuffix(": ") or "progress", self._describe()
        pictures = {"text/plain": f"{label}: {words}", "text/html": self._draw(escape(label), escape(words))}
        if self._picture is None:
            self._picture = display(pictures, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._picture.update(pictures, raw=True)

    def clear(self, *_: Any, **__: Any) -> None:
        """Leave the picture: lines of text stand below it, and not in its way."""

    def close(self) -> None:
        """Show the last state, or nothing more where the bar was to go (`leave`)."""
        if self.disable:
            return
        super().close()
        if self.leave and (self._picture is not None or not self._is_late):
            self.display()
        elif self._picture is not None:
            self._picture.update({"text/plain": "", "text/html": ""}, raw=True)

    def _draw(self, label: str, words: str) -> str:
        place = "" if self.total is None else f' value="{self.n}" max="{self.total}"'
        return (
            f'<div style="{STYLE}"><span>{label}</span>'
            f'<progress{place} aria-label="{label}" style="width:16em"></progress><span>{words}</span></div>'
        )

    def _describe(self) -> str:
        words = UNKNOWN_TOTAL if self.total is None else KNOWN_TOTAL
        return str(self.format_meter(**{**self.format_dict, "bar_format": words, "ncols": None}))
