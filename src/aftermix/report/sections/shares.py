"""Shares of the winner by vector, from `model/shares.json`: a table by kind of tensor and a picture by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aftermix.report.charts.result import WHOLE_PX
from aftermix.report.charts.svg import LINE, MUTED, SCORES, SURFACE, Tooltips, add_legend_above, draw
from aftermix.report.number_format import format_count, format_percent, shorten
from aftermix.runs.json_record import read_record
from aftermix.runs.records import MODEL_FOLDER
from aftermix.runs.share_records import SHARES_FILE, LayerSharesRecord, SharedCountsRecord, SharesRecord

MOST_LABELS = 26
"""Layers that are numbered below the picture."""
LISTED = 3
"""Weights that are named one by one."""
WITHOUT_BLOCK = "rest of the model"


@dataclass(frozen=True)
class ShareRow:
    """A line of the table."""

    name: str
    positions: str
    shares: tuple[str, ...]
    """Of each vector, then what stays at the base where that is known."""
    ranked_by: str


@dataclass(frozen=True)
class ShareSection:
    """The section's words, table and drawing."""

    lead: str
    vectors: tuple[str, ...]
    exclusive: bool
    rows: tuple[ShareRow, ...]
    ranked: bool
    notes: tuple[str, ...]
    chart: Markup


def read_shares(run: Path) -> SharesRecord | None:
    """The record beside the winner's model; None where there is none.

    Raises :class:`AftermixError` for a damaged one.
    """
    return read_record(run / MODEL_FOLDER / SHARES_FILE, SharesRecord)


def build_share_section(shares: SharesRecord | None) -> ShareSection | None:
    """The section of the report on `shares`."""
    if shares is None or not shares.vectors:
        return None

    rows = [_build_row("all", shares.total, shares, tuple(shares.tensors))]
    by_kind = _group_by_kind(shares)
    rows += [_build_row(kind.kind, kind, shares, by_kind.get(kind.kind, ())) for kind in shares.kinds]

    return ShareSection(
        lead=_compose_lead(shares),
        vectors=tuple(shares.vectors),
        exclusive=shares.exclusive,
        rows=tuple(rows),
        ranked=shares.fallback is not None,
        notes=tuple(_list_notes(shares)),
        chart=draw_shares(shares),
    )


def _compose_lead(shares: SharesRecord) -> str:
    if shares.exclusive:
        return (
            "The share of positions that each vector got in the winner. No position belongs to two vectors; what none "
            "took keeps the base's values."
        )
    return "The share of positions at which each vector keeps something in the winner. Two may keep the same one."


def _group_by_kind(shares: SharesRecord) -> dict[str, tuple[str, ...]]:
    grouped: dict[str, list[str]] = {}
    for name, tensor in shares.tensors.items():
        grouped.setdefault(tensor.kind, []).append(name)
    return {kind: tuple(names) for kind, names in grouped.items()}


def _build_row(name: str, part: SharedCountsRecord, shares: SharesRecord, tensors: Sequence[str]) -> ShareRow:
    cells = [format_percent(part.shares.get(vector, 0.0)) for vector in shares.vectors]
    if shares.exclusive and part.rest is not None:
        cells.append(format_percent(part.rest / part.elements if part.elements else 0.0))
    return ShareRow(name, f"{part.elements:,}", tuple(cells), _describe_ranking(shares, tensors))


def _describe_ranking(shares: SharesRecord, tensors: Sequence[str]) -> str:
    """`saliency`, or `saliency 46, magnitude 2`: choices of a vector in a tensor."""
    counts = Counter(ranking for name in tensors for ranking in shares.tensors[name].ranked_by.values())
    if len(counts) < 2:
        return next(iter(counts), "")
    return ", ".join(f"{ranking} {count}" for ranking, count in counts.most_common())


def _list_notes(shares: SharesRecord) -> list[str]:
    fallback = shares.fallback
    if fallback is None:
        return []

    notes = []
    if fallback.without_statistics:
        notes.append(f"Ranked by magnitude everywhere, without statistics: {', '.join(fallback.without_statistics)}.")
    for vector, names in fallback.without_tokens.items():
        first = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else ".")
        weights = format_count(len(names), "weight")
        notes.append(f"{vector}: no token reached {weights}, ranked by magnitude: {first}")
    return notes


def draw_shares(shares: SharesRecord) -> Markup:
    """Bars of one length a layer, a colour a vector, where positions are shared out; else a line a vector."""

    def paint(figure: Figure) -> Tooltips:
        axes = figure.add_subplot()
        tooltips = (_draw_bars if shares.exclusive else _draw_lines)(axes, shares)
        _label_layers(axes, shares.layers)
        axes.set_ylabel("share of positions (%)")
        add_legend_above(axes, columns=max(1, min(6, len(shares.vectors) + 1)))
        return tooltips

    # The legend takes a row of the picture for six names.
    rows = -(-(len(shares.vectors) + 1) // 6)
    label = "Share of positions of each vector, layer by layer"
    return draw(paint, name="shares", label=label, width_px=WHOLE_PX, height_px=280 + 22 * rows)


def _draw_bars(axes: Axes, shares: SharesRecord) -> dict[str, Sequence[str]]:
    tooltips: dict[str, Sequence[str]] = {}
    floors = [0.0] * len(shares.layers)
    for number, (name, heights) in enumerate(_stack_shares(shares)):
        colour = LINE if name is None else _choose_colour(number, len(shares.vectors))
        bars = axes.bar(
            range(len(heights)), heights, 0.86, bottom=floors, color=colour, edgecolor=SURFACE, linewidth=0.6,
            label="base" if name is None else shorten(name, 24), zorder=2,
        )  # fmt: skip

        for place, bar in enumerate(bars):
            bar.set_gid(f"share-{number}-{place}")
            where = shares.layers[place].block or WITHOUT_BLOCK
            count = _count_positions(shares.layers[place], name)
            tooltips[f"share-{number}-{place}"] = [
                f"{where}, {name or 'base'}: {format_percent(heights[place] / 100)} ({count:,} positions)"
            ]

        # The next vector's bars stand on these.
        floors = [floor + height for floor, height in zip(floors, heights, strict=True)]

    axes.set_ylim(0, 100)
    axes.grid(visible=False)
    return tooltips


def _stack_shares(shares: SharesRecord) -> list[tuple[str | None, list[float]]]:
    """Vectors from below, the base's positions on top, in percent of each layer."""
    names: list[str | None] = [*shares.vectors, None]
    stack = [
        (
            name,
            [
                100 * _count_positions(layer, name) / layer.elements if layer.elements else 0.0
                for layer in shares.layers
            ],
        )
        for name in names
    ]
    return [entry for entry in stack if entry[0] is not None or any(entry[1])]


def _count_positions(layer: LayerSharesRecord, name: str | None) -> int:
    return (layer.rest or 0) if name is None else layer.counts.get(name, 0)


def _draw_lines(axes: Axes, shares: SharesRecord) -> dict[str, Sequence[str]]:
    tooltips: dict[str, Sequence[str]] = {}
    places = range(len(shares.layers))
    for number, name in enumerate(shares.vectors):
        heights = [100 * layer.shares.get(name, 0.0) for layer in shares.layers]
        colour = _choose_colour(number, len(shares.vectors))
        axes.plot(places, heights, color=colour, lw=1.6, zorder=2)

        label = shorten(name, 24)
        points = axes.scatter(places, heights, s=30, color=colour, edgecolors=SURFACE, label=label, zorder=3)
        points.set_gid(f"kept-{number}")
        tooltips[f"kept-{number}"] = [
            f"{layer.block or WITHOUT_BLOCK}, {name}: {format_percent(layer.shares.get(name, 0.0))}"
            for layer in shares.layers
        ]
    axes.set_ylim(bottom=0)
    return tooltips


def _choose_colour(number: int, count: int) -> str:
    """Evenly over the middle of the score scale, whose levels are told apart by lightness in either scheme."""
    return SCORES[2 + round(number * (len(SCORES) - 5) / (count - 1)) if count > 1 else 4]


def _label_layers(axes: Axes, layers: Sequence[LayerSharesRecord]) -> None:
    """Numbers of the blocks below the bars, the names of several stacks of blocks below their numbers."""
    stacks = [(layer.block or "").rpartition(".")[0] for layer in layers]
    numbers = [(layer.block or "").rpartition(".")[2] or "rest" for layer in layers]
    step = -(-len(layers) // MOST_LABELS)
    shown = [place for place in range(len(layers)) if place % step == 0 or layers[place].block is None]
    axes.set_xticks(shown, [numbers[place] for place in shown])
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.tick_params(axis="x", length=0)

    # One stack of blocks is named in the label of the axis, several each below their own numbers.
    borders = [0, *(place for place in range(1, len(layers)) if stacks[place] != stacks[place - 1]), len(layers)]
    named = [(first, end) for first, end in pairwise(borders) if stacks[first]]
    if len(named) == 1:
        axes.set_xlabel(f"block of {shorten(stacks[named[0][0]], 60)}; “rest”: outside of all blocks")
        return

    for first, end in named:
        axes.annotate(
            shorten(stacks[first], 30), ((first + end - 1) / 2, 0), (0, -26), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="top", color=MUTED, fontsize=11,
        )  # fmt: skip
    axes.set_xlabel(" \n “rest”: outside of all blocks")
