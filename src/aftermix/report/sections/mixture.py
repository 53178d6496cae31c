"""Result of a mixture run, from `best.json`: ratios, verified mixtures, and the surrogates behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aftermix.report.number_format import format_percent, format_weight, shorten
from aftermix.runs.json_record import Interval
from aftermix.runs.mixture_records import (
    DESIGN_FILE,
    FirstOrderRecord,
    FoundMixtureRecord,
    MixtureRecord,
    OutOfFoldRecord,
    SecondOrderRecord,
    TreeRecord,
)


@dataclass(frozen=True)
class MixtureSection:
    """The section's tables, as texts."""

    lead: str
    ratios: tuple[tuple[str, str, str, str], ...]
    """Name, ratio, its interval, and the ratio to first order where experts were not trained alike."""
    first_order: str
    """The reason for that column, or for its absence; empty where experts were trained alike."""
    verified: tuple[tuple[str, str, str, str, bool], ...]
    regressors: tuple[str, ...]
    surrogates: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]


def is_mixture(run: Path) -> bool:
    """True where `run` is the run of a mixture, not of a search."""
    return (run / DESIGN_FILE).is_file()


def build_mixture_section(record: FoundMixtureRecord | None) -> MixtureSection | None:
    """The section on `record`."""
    if record is None:
        return None

    names = dict.fromkeys(name for _, entry in record.surrogate_rows for name in entry.candidates)
    ends = record.optimum.share_intervals
    whole = record if isinstance(record, MixtureRecord) else None
    first_order = whole.first_order if whole else None
    moved = (first_order.ratios if first_order else None) or {}
    return MixtureSection(
        lead=_compose_lead(record),
        ratios=tuple(
            (
                name,
                format_percent(ratio),
                " to ".join(map(format_percent, ends[name])) if name in ends else "",
                format_percent(moved[name]) if name in moved else "",
            )
            for name, ratio in record.ratios.items()
        ),
        first_order=compose_first_order(first_order, whole.second_order if whole else None),
        verified=tuple(
            (
                entry.name,
                ", ".join(f"{shorten(name, 16)} {format_weight(share)}" for name, share in entry.shares.items()),
                format_utility(entry.predicted.utility, entry.predicted.interval),
                format_utility(entry.select.utility.value, entry.select.utility.interval),
                entry.name == record.winner.point,
            )
            for entry in record.verified
        ),
        regressors=tuple(name.replace("_", " ") for name in names),
        surrogates=tuple(
            (capability, tuple((_format_fit(entry.candidates.get(name)), name == entry.choice) for name in names))
            for capability, entry in record.surrogate_rows
        ),
    )


SECOND_ORDER = (
    "The size of the second order is not known here: `mixture.second_order` measures it where vectors have "
    "`calibration`, a text of their domain."
)


def compose_second_order(record: SecondOrderRecord | None) -> str:
    """Sentence on how far a training and the merge part; empty where it was not asked for."""
    if record is None:
        return ""
    if record.error is None or record.cross is None or record.own is None:
        return "To second order nothing is known: the loss has no gradient at the base."
    if not record.reach:
        return "To second order nothing is known: no vector runs down the gradient of its domain's loss."
    beyond = record.error >= 1
    error, cross, own = (format_percent(value) for value in (record.error, record.cross, record.own))
    told = f"To second order a training at these ratios and the merge part by {error} of the way that both go"
    told = f"{told} ({cross} by domains that bend each other's gradients, {own} by those that bend their own)."
    return f"{told} As much as that says that experts went farther than first order reaches." if beyond else told


def compose_first_order(record: FirstOrderRecord | None, second: SecondOrderRecord | None = None) -> str:
    """Warning of ratios whose experts were not trained alike, and what is known of the second order."""
    known = compose_second_order(second)
    if record is None:
        return known
    if record.ratios is None:
        return f"Shares of a merge are data ratios of alike experts only: {record.note}. {known}".rstrip()
    moved = "To first order a training moves as the merge does at weight x mean rate x steps"
    return f"{moved}: {record.note}. {known or SECOND_ORDER}"


def compose_tree_orders(record: TreeRecord) -> str:
    """Sentences of :func:`compose_first_order`, and the ratios to first order, which no column of a tree has."""
    told, moved = compose_first_order(record.first_order, record.second_order), record.first_order
    if moved is None or moved.ratios is None:
        return told
    ratios = ", ".join(f"{name} {format_percent(ratio)}" for name, ratio in moved.ratios.items())
    return f"{told} Ratios to first order: {ratios}."


def _compose_lead(record: FoundMixtureRecord) -> str:
    utility = record.utility
    weighed: Mapping[str, float] = utility.weights
    quantity = f"“{utility.expression}”" if utility.expression else "mean of " + ", ".join(weighed)
    if not utility.expression and len(set(weighed.values())) > 1:
        quantity = "weighted mean of " + ", ".join(f"{name} ({share:.2f})" for name, share in weighed.items())

    scores = {"zscore": "z-scores", "percentile": "percentiles", "raw": "raw scores"}[utility.normalisation]
    floors = "".join(f", {name} at least {floor:g}" for name, floor in utility.floors.items())
    left_out = f" Scored the same everywhere and does not count: {', '.join(utility.left_out)}." * bool(
        utility.left_out
    )
    return f"Utility: {quantity}, over {scores}{floors}. The winner is the {record.winner.point}.{left_out}"


def format_utility(value: float | None, interval: Interval | None) -> str:
    """
    >>> format_utility(0.5, (-0.25, 1.0)), format_utility(None, None)
    ('0.50, −0.25 to 1.00', 'no value')
    """
    if value is None:
        return "no value"
    return format_weight(value) + (f", {' to '.join(map(format_weight, interval))}" if interval else "")


def _format_fit(errors: OutOfFoldRecord | None) -> str:
    return f"{format_weight(errors.spearman)}, {errors.rmse:.2g}" if errors else ""
