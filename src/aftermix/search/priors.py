"""Points worth trying before any random one: what practice with instruction and expert vectors has shown to be good."""

from __future__ import annotations

from aftermix.runs.trials import Point, Weights
from aftermix.search.space import ChoiceSet, SearchSpace

INSTRUCTION_SCAN = (0.6, 0.75, 0.9)
"""Instruction weights tried with small expert weights: good merges lie there (OptiMer, sections 5.4 and Table 5)."""
INSTRUCTION_DEFAULT = 0.6
"""Instruction weight beside one whole expert (OptiMer, Table 5)."""
SMALL_TOTAL = 0.3
"""Sum of the expert weights in the scan."""


def list_first_points(space: SearchSpace) -> list[Point]:
    """The prior weights under the file's own settings; then, at the first of them, each other choice of each setting.

    A choice that no early trial had at a good place is seldom tried later. Without searched settings these are the
    prior weights alone.
    """
    points = [Point(weights, space.choose_start()) for weights in list_prior_points(space)]
    return points + _vary_choices(space, points[0])


def list_unlike_points(space: SearchSpace) -> list[Point]:
    """The first prior weights and the even ones; then, at the first, each other choice of each setting."""
    points = [Point(weights, space.choose_start()) for weights in _drop_repeats(_list_unlike_weights(space))]
    return points + _vary_choices(space, points[0])


def _vary_choices(space: SearchSpace, first: Point) -> list[Point]:
    """`first` with each other choice of each setting."""
    return [
        Point(first.weights, first.settings | {name: value})
        for name, kind in space.settings.items()
        if isinstance(kind, ChoiceSet)
        for value in kind.values
        if value != first.settings[name]
    ]


def list_prior_points(space: SearchSpace) -> list[Weights]:
    """Distinct points of `space`, the most promising first.

    With n experts: each instruction weight of the scan with 0.3/n per expert; all experts at 1/n; each expert alone at
    1 (both with instruction 0.6). Several instruction vectors share the instruction weight equally. Without an
    instruction vector the scan is one point; without experts it is all there is. Points are clipped into the bounds.
    """
    experts = space.experts
    scan = INSTRUCTION_SCAN if space.instruction else (0.0,)
    points = [
        _place_point(space, instruction, dict.fromkeys(experts, SMALL_TOTAL / len(experts or "1")))
        for instruction in scan
    ]
    if experts:
        points.append(_place_even(space))
        points += [_place_point(space, INSTRUCTION_DEFAULT, {expert: 1.0}) for expert in experts]
    return _drop_repeats(points)


def _list_unlike_weights(space: SearchSpace) -> list[Weights]:
    """The scan has weights that are near each other: its first point stands for all."""
    return [list_prior_points(space)[0], *([_place_even(space)] if space.experts else [])]


def _place_even(space: SearchSpace) -> Weights:
    return _place_point(space, INSTRUCTION_DEFAULT, dict.fromkeys(space.experts, 1 / len(space.experts)))


def _place_point(space: SearchSpace, instruction: float, experts: Weights) -> Weights:
    """The point at which all weights of a vector are alike."""
    weights = dict.fromkeys(space.instruction, instruction / max(len(space.instruction), 1)) | experts
    return space.clip_weights({name: weights.get(space.find_vector(name), 0.0) for name in space.names})


def _drop_repeats(points: list[Weights]) -> list[Weights]:
    return [point for index, point in enumerate(points) if point not in points[:index]]
