"""The charts of a run's result: comparison with baselines, optimism, progress, Pareto front and scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aftermix.report.charts.svg import ACCENT, BAD, INK, LINE, MUTED, SECOND, SURFACE, Tooltips, add_legend_above, draw
from aftermix.report.number_format import ScoreScale, format_weight, shorten
from aftermix.report.trials import KINDS, classify_trial, describe_trial, select_measured
from aftermix.runs.records import CandidateRecord, ScanRecord, ScoresRecord
from aftermix.runs.trials import Trial

HALF_PX, WHOLE_PX = 520, 1020
"""Natural widths: half of the page and the whole page."""


@dataclass(frozen=True)
class ComparisonEntry:
    """One model of the comparison."""

    name: str
    test: ScoresRecord
    winner: bool


def label_axis(scale: ScoreScale, quantity: str) -> str:
    """`test score (points)`"""
    return f"{quantity} ({scale.unit})" if scale.unit else quantity


def draw_comparison(entries: Sequence[ComparisonEntry], *, objective: int, scale: ScoreScale, title: str) -> Markup:
    """Test scores with intervals, one row a model, in the order given, the first on top."""

    def paint(figure: Figure) -> Tooltips:
        axes = figure.add_subplot()
        for row, entry in enumerate(entries):
            _draw_interval(axes, row, entry, objective, scale)

        for entry in entries:
            if entry.winner:
                axes.axvline(
                    scale.convert(entry.test.objective[objective]), color=ACCENT, lw=1, ls=(0, (3, 3)), zorder=1
                )

        axes.set_yticks(range(len(entries)), [shorten(entry.name, 44) for entry in entries])
        for label, entry in zip(axes.get_yticklabels(), entries, strict=True):
            label.set_color(ACCENT if entry.winner else INK)
            label.set_fontweight("bold" if entry.winner else "normal")

        axes.set_ylim(len(entries) - 0.5, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label_axis(scale, title))

        return {f"row-{row}": [_describe_entry(entry, objective, scale)] for row, entry in enumerate(entries)}

    height_px = 26 * len(entries) + 60
    return draw(
        paint, name=f"comparison{objective}", label=f"{title} of each model with its interval",
        width_px=WHOLE_PX, height_px=height_px,
    )  # fmt: skip


def _draw_interval(axes: Axes, row: int, entry: ComparisonEntry, objective: int, scale: ScoreScale) -> None:
    colour = ACCENT if entry.winner else MUTED
    score = scale.convert(entry.test.objective[objective])
    interval = entry.test.interval_of(objective)

    # The number stands behind the interval, or behind the point where there is none.
    right = score
    if interval:
        left, right = (scale.convert(bound) for bound in interval)
        axes.hlines(row, left, right, color=colour, lw=2.5 if entry.winner else 2, zorder=2)

    points = axes.scatter([score], [row], s=62, color=colour, edgecolors=SURFACE, linewidths=1, zorder=3)
    points.set_gid(f"row-{row}")
    axes.annotate(
        scale.format(entry.test.objective[objective]), (max(right, score), row), (7, 0), textcoords="offset points",
        va="center", fontsize=11, color=colour, fontweight="bold" if entry.winner else "normal",
        bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _describe_entry(entry: ComparisonEntry, objective: int, scale: ScoreScale) -> str:
    interval = scale.format_interval(entry.test.interval_of(objective))
    return f"{entry.name}: {scale.format(entry.test.objective[objective])}" + (f" ({interval})" if interval else "")


def draw_optimism(
    candidates: Sequence[CandidateRecord], *, winner: int | None, test: ScoresRecord, search: ScoresRecord | None,
    select: ScoresRecord | None, scale: ScoreScale,
) -> Markup:  # fmt: skip
    """First objective of the candidates on search and select items, and of the winner on test items too."""

    def paint(figure: Figure) -> Tooltips:
        axes = figure.add_subplot()
        for candidate in candidates:
            if candidate.trial != winner and candidate.search and candidate.select:
                values = [scale.convert(scores.objective[0]) for scores in (candidate.search, candidate.select)]
                axes.plot([0, 1], values, color=MUTED, lw=1.2, marker="o", ms=5, mec=SURFACE, alpha=0.8)
        if any(candidate.trial != winner for candidate in candidates):
            axes.plot([], [], color=MUTED, lw=1.2, marker="o", ms=5, mec=SURFACE, label="other candidates")

        # The winner's line leaves out a split that was not measured.
        splits = [(place, scores) for place, scores in enumerate((search, select, test)) if scores]
        places = [place for place, _ in splits]
        values = [scale.convert(scores.objective[0]) for _, scores in splits]
        for place, scores in splits:
            if interval := scores.interval_of(0):
                low, high = (scale.convert(bound) for bound in interval)
                axes.vlines(place, low, high, color=ACCENT, lw=2)
        axes.plot(places, values, color=ACCENT, lw=2, marker="o", ms=8, mec=SURFACE, label="winner, with interval")

        for (place, scores), value, following in zip(splits, values, [*values[1:], values[-1]], strict=True):
            # Under a line that rises, above one that falls.
            axes.annotate(
                scale.format(scores.objective[0]), (place, value), (9, -15 if following > value else 5),
                textcoords="offset points", color=ACCENT, fontweight="bold",
            )  # fmt: skip

        axes.set_xticks([0, 1, 2], ["search items", "select items", "test items"])
        axes.set_xlim(-0.25, 2.4)
        axes.set_ylabel(label_axis(scale, "score"))
        axes.grid(visible=False, axis="x")
        add_legend_above(axes, columns=2)
        return {}

    label = "Scores of the candidates on search and select items, and of the winner on test items"
    return draw(paint, name="optimism", label=label, width_px=HALF_PX, height_px=330)


def draw_progress(trials: Sequence[Trial], *, names: Sequence[str], winner: int | None, scale: ScoreScale) -> Markup:
    """Score of every trial in order with the best so far, one panel an objective; failed trials on the floor."""

    def paint(figure: Figure) -> Tooltips:
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        tooltips: dict[str, Sequence[str]] = {}
        for objective, axes in enumerate(panels):
            tooltips |= _draw_progress_panel(axes, trials, objective, winner, scale)
            axes.set_ylabel(label_axis(scale, "score" if len(names) == 1 else shorten(names[objective], 20)))

        panels[-1].set_xlabel("trial")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        add_legend_above(panels[0], columns=9)
        return tooltips

    height_px = 90 + (260 if len(names) == 1 else 190 * len(names))
    label = "Score of every trial on the search items, and the best score so far"
    return draw(paint, name="progress", label=label, width_px=WHOLE_PX, height_px=height_px)


def _draw_progress_panel(
    axes: Axes, trials: Sequence[Trial], objective: int, winner: int | None, scale: ScoreScale
) -> dict[str, Sequence[str]]:
    tooltips: dict[str, Sequence[str]] = {}
    scored = select_measured(trials)

    for kind in KINDS:
        origin = [trial for trial in scored if classify_trial(trial) == kind.key]
        for fit, colour in ((True, MUTED), (False, SECOND)):
            members = [trial for trial in origin if trial.feasible == fit]
            points = axes.scatter(
                [trial.number for trial in members], _list_values(members, objective, scale), s=34, marker=kind.marker,
                facecolors=colour if kind.filled else SURFACE, edgecolors=colour, linewidths=1.2,
                label=kind.label if fit and origin else None, zorder=3,
            )  # fmt: skip
            points.set_gid(f"p{objective}-{kind.key}-{fit}")
            tooltips[f"p{objective}-{kind.key}-{fit}"] = [describe_trial(trial, scale) for trial in members]
    if any(not trial.feasible for trial in scored):
        axes.plot([], [], "o", ms=5.5, color=SECOND, label="below a floor")

    for trial in scored:
        if trial.number == winner and trial.objective:
            spot = ([trial.number], [scale.convert(trial.objective[objective])])
            axes.plot(*spot, "o", ms=12, mfc="none", mec=ACCENT, mew=2, label="winner", zorder=4)
    _draw_best_so_far(axes, [trial for trial in scored if trial.feasible], objective, scale)

    numbers = [trial.number for trial in trials]
    margin = 0.5 + 0.02 * (max(numbers) - min(numbers))
    axes.set_xlim(min(numbers) - margin, max(numbers) + margin)
    return tooltips | _mark_unmeasured(axes, trials, objective, scale)


def _draw_best_so_far(axes: Axes, feasible: Sequence[Trial], objective: int, scale: ScoreScale) -> None:
    if not feasible:
        return
    best = list(accumulate(_list_values(feasible, objective, scale), max))
    axes.step([trial.number for trial in feasible], best, where="post", color=ACCENT, lw=1.8, label="best so far")


def _mark_unmeasured(
    axes: Axes, trials: Sequence[Trial], objective: int, scale: ScoreScale
) -> dict[str, Sequence[str]]:
    """Trials without a score, marked along the bottom edge."""
    tooltips: dict[str, Sequence[str]] = {}
    for state, marker, colour in (("failed", "x", BAD), ("pruned", "v", SECOND)):
        members = [trial for trial in trials if trial.state == state]
        if members:
            points = axes.scatter(
                [trial.number for trial in members], [0.02] * len(members), s=42, marker=marker, color=colour,
                transform=axes.get_xaxis_transform(), label=state, clip_on=False, zorder=4,
            )  # fmt: skip
            points.set_gid(f"p{objective}-{state}")
            tooltips[f"p{objective}-{state}"] = [describe_trial(trial, scale) for trial in members]
    return tooltips


def _list_values(trials: Sequence[Trial], objective: int, scale: ScoreScale) -> list[float]:
    return [scale.convert(trial.objective[objective]) for trial in trials if trial.objective]


def draw_pareto(
    trials: Sequence[Trial], *, front: Sequence[int], names: Sequence[str], winner: int | None, scale: ScoreScale
) -> Markup:
    """Every measured trial in the plane of two objectives (the pairs of the first three), the front in colour."""
    pairs = list(combinations(range(min(3, len(names))), 2))
    ahead = [trial for trial in select_measured(trials) if trial.number in front]
    behind = [trial for trial in select_measured(trials) if trial.number not in front]

    def paint(figure: Figure) -> Tooltips:
        tooltips: dict[str, Sequence[str]] = {}
        for panel, (first, second) in enumerate(pairs):
            axes = figure.add_subplot(1, len(pairs), panel + 1)
            for key, members, colour, label in (("b", behind, LINE, "dominated"), ("f", ahead, SECOND, "front")):
                points = axes.scatter(
                    _list_values(members, first, scale), _list_values(members, second, scale), s=40, color=colour,
                    edgecolors=MUTED, linewidths=0.8, label=label, zorder=3,
                )  # fmt: skip
                points.set_gid(f"{key}{panel}")
                tooltips[f"{key}{panel}"] = [describe_trial(trial, scale) for trial in members]

            # In the plane of two objectives of three the front is no line.
            if len(names) == 2:
                steps = sorted((trial.objective for trial in ahead if trial.objective), reverse=True)
                x, y = ([scale.convert(point[side]) for point in steps] for side in (first, second))
                axes.step(x, y, where="post", color=SECOND, lw=1.4)
            for trial in trials:
                if trial.number == winner and trial.objective:
                    spot = ([scale.convert(trial.objective[side])] for side in (first, second))
                    axes.plot(*spot, "o", ms=13, mfc="none", mec=ACCENT, mew=2, label="winner", zorder=4)

            axes.set_xlabel(label_axis(scale, shorten(names[first], 28)))
            axes.set_ylabel(label_axis(scale, shorten(names[second], 28)))
            if panel == 0:
                add_legend_above(axes, columns=3)
        return tooltips

    width_px = HALF_PX if len(pairs) == 1 else WHOLE_PX
    label = "Trials in the plane of two objectives, with the Pareto front"
    return draw(paint, name="pareto", label=label, width_px=width_px, height_px=360)


def draw_scan(points: ScanRecord, *, chosen: float | None, objectives: int, scale: ScoreScale) -> Markup:
    """Select score against the weight of one vector alone."""
    ordered = sorted(points.points, key=lambda point: point.weight)

    def paint(figure: Figure) -> Tooltips:
        axes = figure.add_subplot()
        weights, values = [point.weight for point in ordered], [scale.convert(point.select) for point in ordered]
        axes.plot(weights, values, color=SECOND, lw=1.8, zorder=2)
        marks = axes.scatter(weights, values, s=44, color=SECOND, edgecolors=SURFACE, linewidths=1, zorder=3)
        marks.set_gid("scan-points")

        if chosen is not None:
            axes.axvline(chosen, color=ACCENT, lw=1.4, ls=(0, (3, 3)), label=f"winner's weight {format_weight(chosen)}")
            add_legend_above(axes, columns=1)

        axes.set_xlabel(f"weight of {shorten(points.vector, 32)}, every other weight 0")
        axes.set_ylabel(label_axis(scale, "select score" if objectives == 1 else "mean select score"))
        texts = [f"{points.vector} {format_weight(point.weight)}: {scale.format(point.select)}" for point in ordered]
        return {"scan-points": texts}

    label = f"Select score against the weight of {points.vector} alone"
    return draw(paint, name="scan", label=label, width_px=HALF_PX, height_px=320)
