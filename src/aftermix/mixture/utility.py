"""One number for the scores of all capabilities: what an optimum makes largest."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from aftermix.errors import MixtureError, join_place
from aftermix.mixture.expression import ScoreExpression, parse_expression
from aftermix.mixture.simplex import Floats, check_distinct, check_table, refuse_unknown_names
from aftermix.mixture.surrogates.surrogate import is_constant

# N design points, C candidates, M capabilities, T columns of scores: tasks, or capabilities themselves

Normalisation = Literal["zscore", "percentile", "raw"]

Scale = Callable[[Floats], Floats]
"""Scores of one capability, (C,), to normalised ones."""


class NothingVariesError(MixtureError):
    """Every capability that counts scored the same at all points: no mixture is better than another."""


@dataclass(frozen=True)
class MixtureUtility:
    """A weighted mean of normalised scores, or an expression over them, with floors under raw scores.

    A capability of several tasks is the mean of them: each is normalised by itself, and the mean is taken afterwards.
    """

    capabilities: tuple[str, ...]
    columns: tuple[str, ...]
    """Columns of scores: the tasks of the groups, or the capabilities where there are no groups."""
    groups: Mapping[str, tuple[str, ...]]
    """Columns by capability."""
    smaller_is_better: frozenset[str]
    normalisation: Normalisation
    scales: Mapping[str, Mapping[str, Scale]]
    """By capability that counts, the scales of its columns that count."""
    weights: Mapping[str, float]
    """Summing to 1; empty where an expression takes their place."""
    expression: ScoreExpression | None
    floors: Mapping[str, float]
    left_out: tuple[str, ...]
    """Capabilities, and tasks of those that vary, that scored the same at every design point, and so say nothing about
    mixtures."""

    @classmethod
    def build(
        cls,
        capabilities: Sequence[str],
        design_scores: ArrayLike,
        *,
        weights: Mapping[str, float] | None = None,
        expression: str | None = None,
        floors: Mapping[str, float] | None = None,
        normalisation: Normalisation | None = None,
        smaller_is_better: Collection[str] = (),
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> MixtureUtility:
        """Bind a utility to the (N, T) scores of the design.

        `groups` names the tasks of each capability; columns are then the tasks, each once, in order of first mention.
        Without it each capability is a column. A normalised capability is the mean of its normalised tasks, a raw one
        the mean of its raw tasks.

        With `weights` (default: 1 for every capability) it is `sum_m w_m z_m(y_m) / sum_m w_m`, with `expression` the
        value of that text. `normalisation` says what stands for a score: `zscore` (default for weights) is
        `(y - mean) / sd` over the design points; `percentile` the share of them below it, linear between; `raw`
        (default for an expression) the score as it is. `floors` are lowest acceptable raw scores.

        For capabilities in `smaller_is_better`, z-scores and percentiles change their direction, so that larger is
        better, and raw scores under `weights` their sign; an expression over raw scores sees them as measured; a floor
        is a ceiling.

        Raises :class:`MixtureError` for unknown capabilities, unusable weights, a text that does not parse or has no
        value at a design point, weights beside an expression, and :class:`NothingVariesError` when nothing that varies
        is left.
        """
        names = check_distinct(capabilities, where="capabilities")
        members = {name: tuple(groups[name]) if groups else (name,) for name in names}
        columns = tuple(dict.fromkeys(column for group in members.values() for column in group))
        scores_NT = check_table(design_scores, where="scores")
        _refuse_columns(columns, scores_NT)
        for where, given in (("floors", floors or {}), ("smaller_is_better", list(smaller_is_better))):
            refuse_unknown_names(given, names, where=f"utility.{where}")
        if expression is not None and weights is not None:
            found = "expected weights or an expression, found both"
            raise MixtureError("utility", found, "Write the weights into the expression.")

        parsed = None if expression is None else parse_expression(expression, capabilities=names)
        used = parsed.names if parsed else tuple(_check_weights(weights, names))
        varying = {column for column, column_N in zip(columns, scores_NT.T, strict=True) if not is_constant(column_N)}
        constant = tuple(name for name in used if varying.isdisjoint(members[name]))
        if len(constant) == len(used):
            found = f"every capability that counts scored the same at all points ({', '.join(constant)})"
            raise NothingVariesError("utility", found, "Name one that varies, or evaluate more items.")

        kind = normalisation or ("raw" if parsed else "zscore")
        _refuse_normalisation(kind)
        signs = {name: -1.0 if name in smaller_is_better else 1.0 for name in names}
        if parsed and kind == "raw":
            signs = dict.fromkeys(names, 1.0)

        counted = {} if parsed else _normalise_weights(_check_weights(weights, names), constant)
        scales: dict[str, dict[str, Scale]] = {}
        silent: list[str] = []
        for name in used:
            scored = [column for column in members[name] if kind == "raw" or column in varying] or [*members[name]]
            silent += [column for column in members[name] if column not in varying and name not in constant]
            scales[name] = {
                column: _build_scale(kind, scores_NT[:, columns.index(column)], signs[name]) for column in scored
            }

        left_out = (*constant, *dict.fromkeys(silent))
        utility = cls(
            *(names, columns, members, frozenset(smaller_is_better), kind),
            *(scales, counted, parsed, dict(floors or {}), left_out),
        )
        utility._refuse_no_value(scores_NT)
        return utility

    def score_capabilities(self, scores_CT: Floats) -> Floats:
        """(C, M) raw scores of all capabilities: of several tasks, their mean."""
        places = [[self.columns.index(column) for column in self.groups[name]] for name in self.capabilities]
        return np.stack([np.mean([scores_CT[:, place] for place in group], axis=0) for group in places], axis=1)

    def values(self, scores_CT: Floats) -> Floats:
        """(C,) the utility of (C, T) scores; larger is better, minus infinity where an expression has no value."""
        normalised = {
            name: np.mean([scale(scores_CT[:, self.columns.index(column)]) for column, scale in scales.items()], axis=0)
            for name, scales in self.scales.items()
        }
        if self.expression is not None:
            found_C = np.broadcast_to(self.expression.values(normalised), len(scores_CT))
            return np.where(np.isfinite(found_C), found_C, -np.inf)
        return np.asarray(np.sum([weight * normalised[name] for name, weight in self.weights.items()], axis=0))

    def violation(self, scores_CT: Floats) -> Floats:
        """(C,) by how much floors are broken, summed over capabilities; 0 where all are met."""
        total_C = np.zeros(len(scores_CT))
        if not self.floors:
            return total_C
        scores_CM = self.score_capabilities(scores_CT)
        for name, floor in self.floors.items():
            sign = -1.0 if name in self.smaller_is_better else 1.0
            total_C += np.maximum(0.0, sign * (floor - scores_CM[:, self.capabilities.index(name)]))
        return total_C

    def best(self, scores_NT: Floats) -> int:
        """The row of largest utility among those that break floors least."""
        return int(np.lexsort((-self.values(scores_NT), self.violation(scores_NT)))[0])

    def _refuse_no_value(self, scores_NT: Floats) -> None:
        bad_N = np.isneginf(self.values(scores_NT))
        if bad_N.any():
            text = self.expression.text if self.expression else ""
            found = f"'{text}' has no finite value at design point {int(bad_N.argmax())}"
            raise MixtureError("utility", found, "Divide by nothing that can be 0, take no logarithm of 0 or below.")


def _build_scale(kind: Normalisation, design_N: Floats, sign: float) -> Scale:
    if kind == "raw" or is_constant(design_N):
        offset = 0.0 if kind == "raw" else float(design_N[0])
        return lambda scores_C: sign * (scores_C - offset)
    if kind == "zscore":
        mean, sd = float(design_N.mean()), float(design_N.std())
        return lambda scores_C: sign * (scores_C - mean) / sd
    known = np.unique(sign * design_N)
    ordered = np.sort(sign * design_N)
    below = (np.searchsorted(ordered, known, "left") + np.searchsorted(ordered, known, "right")) / (2 * len(ordered))
    return lambda scores_C: np.interp(sign * scores_C, known, below)


def _check_weights(weights: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """Weights above 0 by capability."""
    given = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
    refuse_unknown_names(given, names, where="utility.weights")
    for name, weight in given.items():
        if not (math.isfinite(weight) and weight >= 0):
            found = f"expected a weight of at least 0, found {weight:g}"
            raise MixtureError(
                join_place("utility.weights", name), found, "Use an expression to subtract a capability."
            )
    kept = {name: float(weight) for name, weight in given.items() if weight > 0}
    if not kept:
        found = f"expected a capability with a weight above 0 among {', '.join(names)}, found none"
        raise MixtureError("utility.weights", found, "Give one a weight, or leave the key out.")
    return kept


def _normalise_weights(weights: Mapping[str, float], constant: Collection[str]) -> dict[str, float]:
    kept = {name: weight for name, weight in weights.items() if name not in constant}
    total = math.fsum(kept.values())
    return {name: weight / total for name, weight in kept.items()}


def _refuse_columns(names: Sequence[str], scores_NT: Floats) -> None:
    if scores_NT.shape[1] != len(names):
        found = f"expected {len(names)} columns ({', '.join(names)}), found {scores_NT.shape[1]}"
        raise MixtureError("scores", found, "Give one column for each capability, or each task of the groups.")


def _refuse_normalisation(kind: str) -> None:
    known = get_args(Normalisation)
    if kind not in known:
        found = f"expected one of {', '.join(known)}, found '{kind}'"
        raise MixtureError("utility.normalisation", found, "Correct the name.")
