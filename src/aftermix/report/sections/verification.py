"""Mixtures that were trained for real beside the merges that stand for them, from `verification.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aftermix.report import number_format as figures
from aftermix.report.charts.result import HALF_PX, WHOLE_PX
from aftermix.report.charts.svg import ACCENT, MUTED, SURFACE, Tooltips, draw
from aftermix.report.number_format import RAW, Scale, scale_for
from aftermix.runs.reader import read_record
from aftermix.runs.records import Finite, Interval, Record, UtilityScore

FILE = "verification.json"
PANELS_A_ROW = 3
PANEL_HEIGHT_PX = 300


class Score(Record):
    """Score of a capability."""

    score: Finite


class Side(Record):
    """One mixture, merged or trained."""

    utility: UtilityScore
    capabilities: dict[str, Score]

    def of(self, name: str | None) -> float | None:
        """Score of the capability `name`, or without one the utility."""
        return self.utility.value if name is None else self.capabilities[name].score


class TrainedRecord(Record):
    """One mixture on both sides."""

    name: str
    point: str
    shares: dict[str, Finite]
    merged: Side
    trained: Side


class ConsistencyRecord(Record):
    """Agreement of both sides."""

    spearman: Finite | None = None
    interval: Interval | None = None
    kendall: Finite | None = None
    predicted_spearman: Finite | None = None
    slope: Finite | None = None
    intercept: Finite | None = None
    offset: Finite | None = None
    offset_interval: Interval | None = None
    regret: Finite | None = None


class Consistencies(Record):
    """Of the utility, and by capability."""

    utility: ConsistencyRecord
    capabilities: dict[str, ConsistencyRecord]


class RatiosRecord(Record):
    """Ratios that another method found; RegMix may have none, and say why."""

    ratios: dict[str, Finite] | None = None
    surrogate: dict[str, Finite] | None = None
    note: str | None = None


class CostRecord(Record):
    """Tokens and runs that one method spends."""

    method: str
    tokens: Finite
    runs: int
    trained_tokens: Finite
    evaluated_tokens: Finite
    relative: Finite | None = None
    relative_whole: Finite | None = None


class VerificationRecord(Record):
    """Content of `verification.json`."""

    mixtures: tuple[TrainedRecord, ...]
    items: dict[str, int]
    tokens: int
    schedule: str
    consistency: Consistencies
    regmix: RatiosRecord
    doremi: RatiosRecord | None = None
    cost: tuple[CostRecord, ...]


METHODS = {"mergemix": "MergeMix", "regmix": "RegMix", "doremi": "DoReMi", "manual": "by hand"}
UTILITY = "utility"


@dataclass(frozen=True)
class VerificationSection:
    """The section's words, tables and drawing."""

    lead: str
    rows: tuple[tuple[str, ...], ...]
    """Name, Spearman, its interval, Kendall, Spearman of the surrogates, offset, line."""
    mixtures: tuple[tuple[str, str, tuple[str, ...]], ...]
    capabilities: tuple[str, ...]
    ratios: tuple[tuple[str, str], ...]
    costs: tuple[tuple[str, str, str, str, str, str], ...]
    chart: Markup


def read_verification(run: Path) -> VerificationRecord | None:
    """The verification of the mixture run in `run`, if there is one."""
    return read_record(run / FILE, VerificationRecord) if (run / FILE).is_file() else None


def verification_section(record: VerificationRecord | None) -> VerificationSection | None:
    """The section on `record`."""
    if record is None:
        return None

    names = tuple(record.consistency.capabilities)
    scale = scale_of(record)
    return VerificationSection(
        lead=lead_of(record),
        rows=tuple(_row(name, found, scale if name != UTILITY else RAW) for name, found in consistencies(record)),
        mixtures=tuple(
            (one.point, shares_text(one.shares), tuple(_cells(one, names, scale))) for one in record.mixtures
        ),
        capabilities=names,
        ratios=tuple(found_ratios(record)),
        costs=tuple(map(cost_cells, record.cost)),
        chart=_chart(record, scale),
    )


def scale_of(record: VerificationRecord) -> Scale:
    """The unit of the capabilities' scores."""
    return scale_for(
        found.score
        for one in record.mixtures
        for side in (one.merged, one.trained)
        for found in side.capabilities.values()
    )


def lead_of(record: VerificationRecord) -> str:
    """The first words of the section: how many mixtures were trained, on how much, and measured on what."""
    items = sum(record.items.values())
    text = f"{len(record.mixtures)} mixtures were trained on {figures.tokens(record.tokens)} tokens each and measured "
    text += f"beside the merges that stand for them, on the same {figures.count(items, 'test item')}."
    if record.schedule != "constant":
        text += (
            f" They were trained with the schedule “{record.schedule}”; merges stand for trainings at a constant rate."
        )
    return text


def consistencies(record: VerificationRecord) -> Iterator[tuple[str, ConsistencyRecord]]:
    """The utility first, then every capability."""
    yield UTILITY, record.consistency.utility
    yield from record.consistency.capabilities.items()


def found_ratios(record: VerificationRecord) -> Iterator[tuple[str, str]]:
    """Ratios, or a note, that other methods come to from the same data."""
    if record.regmix.ratios is not None:
        yield "RegMix", shares_text(record.regmix.ratios)
    elif record.regmix.note:
        yield "RegMix", record.regmix.note
    if record.regmix.surrogate is not None:
        yield "our surrogates on the trained mixtures", shares_text(record.regmix.surrogate)
    if record.doremi is not None and record.doremi.ratios is not None:
        yield "DoReMi", shares_text(record.doremi.ratios)


def cost_cells(cost: CostRecord) -> tuple[str, str, str, str, str, str]:
    """Method, tokens of a run, runs, tokens evaluated, relative cost of training, and with evaluation."""
    return (
        METHODS.get(cost.method, cost.method),
        figures.tokens(cost.tokens),
        str(cost.runs),
        figures.tokens(cost.evaluated_tokens),
        _times(cost.relative),
        _times(cost.relative_whole),
    )


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}\N{MULTIPLICATION SIGN}"


def shares_text(shares: dict[str, float]) -> str:
    """
    >>> shares_text({"ja": 0.75, "math": 0.25})
    'ja 0.75, math 0.25'
    """
    return ", ".join(f"{figures.shorten(name, 16)} {figures.weight(share)}" for name, share in shares.items())


def _row(name: str, found: ConsistencyRecord, scale: Scale) -> tuple[str, ...]:
    offset = "" if found.offset is None else scale.signed(found.offset)
    if found.offset_interval:
        offset += f", {scale.signed_between(found.offset_interval)}"

    line = ""
    if found.slope is not None and found.intercept is not None:
        line = f"{figures.weight(found.slope)} x {scale.signed(found.intercept)}"

    between = " to ".join(map(figures.weight, found.interval)) if found.interval else ""
    ranks = (_optional(found.spearman), between, _optional(found.kendall), _optional(found.predicted_spearman))
    return name, *ranks, offset, line


def _optional(value: float | None) -> str:
    return "none" if value is None else figures.weight(value)


def _cells(one: TrainedRecord, names: Sequence[str], scale: Scale) -> Iterator[str]:
    """Merged and trained score of the utility and of each capability."""
    for name in (None, *names):
        unit = RAW if name is None else scale
        sides = [side.of(name) for side in (one.merged, one.trained)]
        yield " → ".join("no value" if value is None else _text(unit, value) for value in sides)


def _text(unit: Scale, value: float) -> str:
    return figures.weight(value) if unit is RAW else unit.text(value)


def _chart(record: VerificationRecord, scale: Scale) -> Markup:
    names = (None, *record.consistency.capabilities)
    rows = -(-len(names) // PANELS_A_ROW)

    def paint(figure: Figure) -> Tooltips:
        tooltips: dict[str, Sequence[str]] = {}
        for place, name in enumerate(names):
            axes = figure.add_subplot(rows, min(PANELS_A_ROW, len(names)), place + 1)
            tooltips[f"trained-{place}"] = _panel(axes, record, name, place, RAW if name is None else scale)
        return tooltips

    label = "Score of each mixture, merged and really trained, by capability"
    width = HALF_PX if len(names) == 1 else WHOLE_PX
    return draw(paint, name="verification", label=label, width_px=width, height_px=rows * PANEL_HEIGHT_PX)


def _panel(axes: Axes, record: VerificationRecord, name: str | None, place: int, scale: Scale) -> list[str]:
    """One capability: a point for each mixture, the line of equal scores and the fitted one; the points' texts."""
    found = record.consistency.utility if name is None else record.consistency.capabilities[name]
    points = [
        (scale.value(x), scale.value(y), one)
        for one in record.mixtures
        if (x := one.merged.of(name)) is not None and (y := one.trained.of(name)) is not None
    ]
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]

    # Lines first, so that points lie on them.
    if points:
        ends = [min(*xs, *ys), max(*xs, *ys)]
        axes.plot(ends, ends, color=MUTED, lw=1.2, zorder=1)
    if found.slope is not None and found.intercept is not None and xs:
        reach = [min(xs), max(xs)]
        fitted = [found.slope * x + scale.value(found.intercept) for x in reach]
        axes.plot(reach, fitted, color=ACCENT, lw=1.6, ls=(0, (4, 3)), zorder=2)

    marks = axes.scatter(xs, ys, s=44, color=ACCENT, edgecolors=SURFACE, linewidths=1, zorder=3)
    marks.set_gid(f"trained-{place}")
    axes.set_title(f"{figures.shorten(name or UTILITY, 22)}: rank {_optional(found.spearman)}", loc="left")
    axes.set_xlabel("merged", color=MUTED)
    axes.set_ylabel("trained", color=MUTED)

    both = [tuple(scale.text(value / scale.factor) for value in (x, y)) for x, y, _ in points]
    return [
        f"{one.point} ({shares_text(one.shares)}): merged {merged}, trained {trained}"
        for (merged, trained), (_, _, one) in zip(both, points, strict=True)
    ]
