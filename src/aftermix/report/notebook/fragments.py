"""Tables and paragraphs of a cell's output. Names are a stranger's text, and escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from aftermix.report.tables.models import ScoreCell

TEXT, NUMBER = "text-align:left", "text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"
HEAD_CELL, CELL = Markup('<th style="{}">{}</th>'), Markup('<td style="{}">{}</td>')
ROW, BOLD_ROW = Markup("<tr>{}</tr>"), Markup('<tr style="font-weight:bold">{}</tr>')
TABLE = Markup('<div style="overflow-x:auto"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>')
INTERVAL = Markup('<br><small style="opacity:0.7;font-weight:normal">{}</small>')
PARAGRAPH, HEADLINE = Markup("<p>{}</p>"), Markup("<p><b>{}</b></p>")
Cell = str | ScoreCell


def build_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, texts: int = 1, bold: int = -1) -> Markup:
    """A table whose first `texts` columns are words, and the others numbers; row `bold`, from 0, stands out."""
    styles = [TEXT if place < texts else NUMBER for place in range(len(columns))]
    head = _join(HEAD_CELL.format(style, name) for style, name in zip(styles, columns, strict=True))
    body = (_join(CELL.format(style, _write(cell)) for style, cell in zip(styles, row, strict=True)) for row in rows)
    return TABLE.format(head, _join((BOLD_ROW if place == bold else ROW).format(row) for place, row in enumerate(body)))


def build_paragraph(text: str) -> Markup:
    """A line of text."""
    return PARAGRAPH.format(text)


def build_headline(text: str) -> Markup:
    """A line of text that stands out."""
    return HEADLINE.format(text)


def _write(cell: Cell) -> Markup:
    if isinstance(cell, str):
        return escape(cell)
    return escape(cell.text) + (INTERVAL.format(cell.interval) if cell.interval else "")


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup().join(parts)
