"""Mixtures that were trained for real beside the merges that stand for them, from `verification.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aftermix.report.charts.result import HALF_PX, WHOLE_PX
from aftermix.report.charts.svg import ACCENT, MUTED, SURFACE, Tooltips, draw
from aftermix.report.number_format import (
    RAW,
    ScoreScale,
    choose_scale,
    format_count,
    format_tokens,
    format_weight,
    shorten,
)
from aftermix.report.sections.mixture import format_utility
from aftermix.runs.json_record import read_record
from aftermix.runs.records import UtilityScore
from aftermix.runs.verification_records import (
    VERIFICATION_FILE,
    ConsistencyRecord,
    MethodCostRecord,
    TrainedMixtureRecord,
    VerificationRecord,
)

PANELS_A_ROW = 3
PANEL_HEIGHT_PX = 300


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
    retrained: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Method, its ratios; utility, found minus it, and the capabilities of the models trained at them."""
    retrained_lead: str
    chart: Markup


def read_verification(run: Path) -> VerificationRecord | None:
    """The verification of the mixture run in `run`, if there is one."""
    return read_record(run / VERIFICATION_FILE, VerificationRecord)


def build_verification_section(record: VerificationRecord | None) -> VerificationSection | None:
    """The section on `record`."""
    if record is None:
        return None

    names = tuple(record.consistency.capabilities)
    scale = choose_score_scale(record)
    return VerificationSection(
        lead=compose_lead(record),
        rows=tuple(
            _build_row(name, consistency, scale if name != UTILITY else RAW)
            for name, consistency in list_consistencies(record)
        ),
        mixtures=tuple(
            (mixture.point, format_shares(mixture.shares), tuple(_format_scores(mixture, names, scale)))
            for mixture in record.mixtures
        ),
        capabilities=names,
        ratios=tuple(list_other_ratios(record)),
        costs=tuple(map(format_cost, record.cost)),
        retrained=tuple(list_retrained(record)),
        retrained_lead=compose_retrained_lead(record),
        chart=_draw_chart(record, scale),
    )


def choose_score_scale(record: VerificationRecord) -> ScoreScale:
    """The unit of the capabilities' scores."""
    return choose_scale(
        capability.score
        for mixture in record.mixtures
        for side in (mixture.merged, mixture.trained)
        for capability in side.capabilities.values()
    )


def compose_lead(record: VerificationRecord) -> str:
    """The first words of the section: how many mixtures were trained, on how much, and measured on what."""
    items = sum(record.items.values())
    tokens = format_tokens(record.tokens)
    text = f"{len(record.mixtures)} mixtures were trained on {tokens} tokens each and measured "
    text += f"beside the merges that stand for them, on the same {format_count(items, 'test item')}."
    if record.schedule != "constant":
        text += (
            f" They were trained with the schedule “{record.schedule}”; merges stand for trainings at a constant rate."
        )
    return text


def list_consistencies(record: VerificationRecord) -> Iterator[tuple[str, ConsistencyRecord]]:
    """The utility first, then every capability."""
    yield UTILITY, record.consistency.utility
    yield from record.consistency.capabilities.items()


def list_other_ratios(record: VerificationRecord) -> Iterator[tuple[str, str]]:
    """Ratios, or a note, that other methods come to from the same data."""
    if record.regmix.ratios is not None:
        yield "RegMix", format_shares(record.regmix.ratios)
    elif record.regmix.note:
        yield "RegMix", record.regmix.note
    if record.regmix.surrogate is not None:
        yield "our surrogates on the trained mixtures", format_shares(record.regmix.surrogate)
    if record.doremi is not None:
        yield "DoReMi", format_shares(record.doremi.ratios)


def compose_retrained_lead(record: VerificationRecord) -> str:
    """The verdict on trained ratios, a rival that is better first; empty where none were trained."""
    if not record.retrained:
        return ""
    seeds = len(record.retrained[0].models)
    rivals = [entry for entry in record.retrained if entry.difference is not None]
    better = [entry.method for entry in rivals if _is_beyond_zero(entry.difference, above=False)]
    worse = [entry.method for entry in rivals if _is_beyond_zero(entry.difference, above=True)]

    trained = f"{format_count(seeds, 'model')} trained at each method's ratios, on the same test items."
    if seeds == 1:
        return f"{trained} One training each: differences may be those of a seed."
    parts = [f"Better than the found ratios: {', '.join(better)}."] if better else []
    parts += [f"The found ratios are better than {', '.join(worse)}."] if worse else []
    return " ".join([*parts, trained] if parts else ["No method's ratios are told apart from the found ones.", trained])


def list_retrained(record: VerificationRecord) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Rows of models trained at the ratios of each method: name, ratios, utility, difference, capabilities."""
    scale = choose_score_scale(record)
    for entry in record.retrained or ():
        means = [
            fmean(model.test.capabilities[name].score for model in entry.models)
            for name in record.consistency.capabilities
        ]
        cells = (_format_known(entry.utility), _format_known(entry.difference), *map(scale.format, means))
        yield entry.method, format_shares(entry.ratios), cells


def _format_known(utility: UtilityScore | None) -> str:
    return "" if utility is None else format_utility(utility.value, utility.interval)


def _is_beyond_zero(difference: UtilityScore | None, *, above: bool) -> bool:
    if difference is None or difference.interval is None:
        return False
    return difference.interval[0] > 0 if above else difference.interval[1] < 0


def format_cost(cost: MethodCostRecord) -> tuple[str, str, str, str, str, str]:
    """Method, tokens of a run, runs, tokens evaluated, relative cost of training, and with evaluation."""
    return (
        METHODS.get(cost.method, cost.method),
        format_tokens(cost.tokens),
        str(cost.runs),
        format_tokens(cost.evaluated_tokens),
        _format_factor(cost.relative),
        _format_factor(cost.relative_whole),
    )


def _format_factor(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}\N{MULTIPLICATION SIGN}"


def format_shares(shares: dict[str, float]) -> str:
    """
    >>> format_shares({"ja": 0.75, "math": 0.25})
    'ja 0.75, math 0.25'
    """
    return ", ".join(f"{shorten(name, 16)} {format_weight(share)}" for name, share in shares.items())


def _build_row(name: str, consistency: ConsistencyRecord, scale: ScoreScale) -> tuple[str, ...]:
    offset = "" if consistency.offset is None else scale.format_signed(consistency.offset)
    if consistency.offset_interval:
        offset += f", {scale.format_signed_interval(consistency.offset_interval)}"

    line = ""
    if consistency.slope is not None and consistency.intercept is not None:
        line = f"{format_weight(consistency.slope)} x {scale.format_signed(consistency.intercept)}"

    between = " to ".join(map(format_weight, consistency.interval)) if consistency.interval else ""
    ranks = (
        _format_optional(consistency.spearman),
        between,
        _format_optional(consistency.kendall),
        _format_optional(consistency.predicted_spearman),
    )
    return name, *ranks, offset, line


def _format_optional(value: float | None) -> str:
    return "none" if value is None else format_weight(value)


def _format_scores(mixture: TrainedMixtureRecord, names: Sequence[str], scale: ScoreScale) -> Iterator[str]:
    """Merged and trained score of the utility and of each capability."""
    for name in (None, *names):
        unit = RAW if name is None else scale
        sides = [side.find_score(name) for side in (mixture.merged, mixture.trained)]
        yield " → ".join("no value" if value is None else _format_score(unit, value) for value in sides)


def _format_score(unit: ScoreScale, value: float) -> str:
    return format_weight(value) if unit is RAW else unit.format(value)


def _draw_chart(record: VerificationRecord, scale: ScoreScale) -> Markup:
    names = (None, *record.consistency.capabilities)
    rows = -(-len(names) // PANELS_A_ROW)

    def paint(figure: Figure) -> Tooltips:
        tooltips: dict[str, Sequence[str]] = {}
        for place, name in enumerate(names):
            axes = figure.add_subplot(rows, min(PANELS_A_ROW, len(names)), place + 1)
            tooltips[f"trained-{place}"] = _draw_panel(axes, record, name, place, RAW if name is None else scale)
        return tooltips

    label = "Score of each mixture, merged and really trained, by capability"
    width = HALF_PX if len(names) == 1 else WHOLE_PX
    return draw(paint, name="verification", label=label, width_px=width, height_px=rows * PANEL_HEIGHT_PX)


def _draw_panel(axes: Axes, record: VerificationRecord, name: str | None, place: int, scale: ScoreScale) -> list[str]:
    """One capability: a point for each mixture, the line of equal scores and the fitted one; the points' texts."""
    consistency = record.consistency.utility if name is None else record.consistency.capabilities[name]
    points = [
        (scale.convert(x), scale.convert(y), mixture)
        for mixture in record.mixtures
        if (x := mixture.merged.find_score(name)) is not None and (y := mixture.trained.find_score(name)) is not None
    ]
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]

    # Lines first, so that points lie on them.
    if points:
        ends = [min(*xs, *ys), max(*xs, *ys)]
        axes.plot(ends, ends, color=MUTED, lw=1.2, zorder=1)
    if consistency.slope is not None and consistency.intercept is not None and xs:
        ends_of_line = [min(xs), max(xs)]
        fitted = [consistency.slope * x + scale.convert(consistency.intercept) for x in ends_of_line]
        axes.plot(ends_of_line, fitted, color=ACCENT, lw=1.6, ls=(0, (4, 3)), zorder=2)

    marks = axes.scatter(xs, ys, s=44, color=ACCENT, edgecolors=SURFACE, linewidths=1, zorder=3)
    marks.set_gid(f"trained-{place}")
    axes.set_title(f"{shorten(name or UTILITY, 22)}: rank {_format_optional(consistency.spearman)}", loc="left")
    axes.set_xlabel("merged", color=MUTED)
    axes.set_ylabel("trained", color=MUTED)

    both = [tuple(scale.format(value / scale.factor) for value in (x, y)) for x, y, _ in points]
    return [
        f"{mixture.point} ({format_shares(mixture.shares)}): merged {merged}, trained {trained}"
        for (merged, trained), (_, _, mixture) in zip(both, points, strict=True)
    ]
