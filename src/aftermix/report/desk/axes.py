"""Sliders and choices of the desk, and the positions that its buttons put them to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats.qmc import Sobol

from aftermix.config import Config
from aftermix.config.places import require_number
from aftermix.report.number_format import format_setting
from aftermix.report.tables.vectors import list_weights
from aftermix.report.trials import find_nondominated, select_measured
from aftermix.response.surface.coordinates import Floats, MergeCoordinates, MergePoints
from aftermix.runs.reader import RunContents
from aftermix.runs.records import BestRecord
from aftermix.runs.trials import Setting, Settings, Weights

Position = tuple[float, ...]
"""A number for each axis: a weight, a setting, or the number of a choice."""
SHARE = "ratio."
"""Settings that are shares of one whole begin so."""
NEAR = 1e-9
"""Weights that differ by less are the same."""


@dataclass(frozen=True)
class DeskAxis:
    """A weight, a numeric setting, or a setting with choices."""

    kind: str
    """`weight`, `number` or `choice`."""
    name: str
    low: float
    """Ends of the range that was searched."""
    high: float
    least: float
    """Ends of the slider: as the range, but that the positions of all buttons are on it."""
    most: float
    step: float | None = None
    values: tuple[Setting, ...] = ()
    """Choices; empty for a slider."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The choices as a person writes them."""
        return tuple(format_setting(value) for value in self.values)

    def locate_percent(self, value: float) -> float:
        """Place of `value` on the slider, 0 at its left end and 100 at its right one."""
        return 100 * (value - self.least) / (self.most - self.least)


@dataclass(frozen=True)
class DeskPreset:
    """A position with a name; `trial` is the number of the measured merge there, where it is one of the run's own."""

    name: str
    position: Position
    trial: int | None = None


@dataclass(frozen=True)
class DeskSpace:
    """All axes and presets, with the weights that no slider moves."""

    coordinates: MergeCoordinates
    axes: tuple[DeskAxis, ...]
    presets: tuple[DeskPreset, ...]
    fixed: Mapping[str, float]

    @property
    def start(self) -> Position:
        """The position that the desk opens at: the first preset, else the middle of the ranges."""
        return self.presets[0].position if self.presets else self.place(np.full(len(self.axes), 0.5))

    def split_position(self, position: Position) -> tuple[Weights, Settings]:
        """Weights of all vectors and values of all settings at `position`."""
        weights, settings = dict(self.fixed), Settings()
        for axis, value in zip(self.axes, position, strict=True):
            if axis.kind == "weight":
                weights[axis.name] = value
            else:
                settings[axis.name] = axis.values[int(value)] if axis.values else value
        return weights, settings

    def locate(self, positions: Sequence[Position]) -> MergePoints:
        """The positions as the response sees them."""
        merges = [self.split_position(position) for position in positions]
        return self.coordinates.locate([weights for weights, _ in merges], [settings for _, settings in merges])

    def place(self, unit: Floats) -> Position:
        """The position at a share of each slider, or of the list of choices."""
        return tuple(
            float(min(int(share * len(axis.values)), len(axis.values) - 1))
            if axis.values
            else axis.least + float(share) * (axis.most - axis.least)
            for axis, share in zip(self.axes, unit, strict=True)
        )

    def scatter(self, power: int) -> list[Position]:
        """`2^power` positions spread evenly over the sliders, the same every time."""
        return [self.place(unit) for unit in Sobol(len(self.axes), scramble=False).random_base2(power)]


def build_desk_space(run: RunContents, coordinates: MergeCoordinates) -> DeskSpace:
    """The axes of a response in `coordinates`, each as wide as it was searched, and wide enough for every preset."""
    fixed = _list_fixed_weights(run.config, coordinates)
    searched = _list_searched_axes(run.config, coordinates)
    presets = _list_presets(run, searched, fixed)

    axes = []
    for place, axis in enumerate(searched):
        values = [preset.position[place] for preset in presets]
        least, most = min([axis.low, *values]), max([axis.high, *values])
        axes.append(DeskAxis(axis.kind, axis.name, axis.low, axis.high, least, most, axis.step, axis.values))
    return DeskSpace(coordinates, tuple(axes), tuple(presets), fixed)


def _list_fixed_weights(config: Config, coordinates: MergeCoordinates) -> dict[str, float]:
    """Weights that no slider moves: the file's own, or those that a range holds fixed."""
    if config.search.over.weights:
        dimensions = list_weights(config)
        return {name: dimensions[name].bounds[0] for name in dimensions if name not in coordinates.vectors}
    return {name: require_number(vector.weight, where=name, who="a desk") for name, vector in config.vectors.items()}


def _list_searched_axes(config: Config, coordinates: MergeCoordinates) -> list[DeskAxis]:
    axes, dimensions = [], list_weights(config)
    for name in coordinates.vectors:
        low, high = dimensions[name].bounds
        axes.append(DeskAxis("weight", name, low, high, low, high))

    for name in coordinates.numbers:
        over = config.search.over.settings
        given = over[name] if name in over else over[name.partition(".")[0]]
        low, high = float(given.low or 0.0), float(given.high or 0.0)
        axes.append(DeskAxis("number", name, low, high, low, high, given.step))

    for name, values in (coordinates.choices or {}).items():
        last = float(len(values) - 1)
        axes.append(DeskAxis("choice", name, 0.0, last, 0.0, last, values=tuple(values)))  # type: ignore[arg-type]
    return axes


@dataclass(frozen=True)
class _NamedMerge:
    name: str
    weights: Weights
    settings: Settings
    trial: int | None = None


def _list_presets(run: RunContents, axes: Sequence[DeskAxis], fixed: Mapping[str, float]) -> list[DeskPreset]:
    """Winner, uniform merge, base, and the front; merges that the sliders cannot be put to are left out."""
    presets = []
    for merge in _list_named_merges(run):
        position = _find_position(axes, merge.weights, merge.settings)
        as_fixed = all(abs(merge.weights.get(vector, 0.0) - weight) < NEAR for vector, weight in fixed.items())
        if position is not None and as_fixed:
            presets.append(DeskPreset(merge.name, position, merge.trial))
    return presets


def _list_named_merges(run: RunContents) -> Iterator[_NamedMerge]:
    """Settings of uniform merge and base are the winner's, before there is one those of the first measured merge."""
    best = run.best if isinstance(run.best, BestRecord) else None
    measured = select_measured(run.trials)
    settings = dict(best.settings) if best else dict(measured[0].settings) if measured else {}

    names = list(list_weights(run.config))
    if best:
        yield _NamedMerge("winner", dict(best.weights), settings, best.winner.trial)
    yield _NamedMerge("uniform", dict.fromkeys(names, 1 / len(run.config.vectors)), settings)
    yield _NamedMerge("base", dict.fromkeys(names, 0.0), settings)

    if len(run.config.search.objective) > 1:
        front = (best and best.front) or find_nondominated(run.trials)
        for trial in measured:
            if trial.number in front and not (best and trial.number == best.winner.trial):
                yield _NamedMerge(f"trial {trial.number}", trial.weights, trial.settings, trial.number)


def _find_position(axes: Sequence[DeskAxis], weights: Weights, settings: Settings) -> Position | None:
    """The position of a merge; None where a setting has a value that is not among the choices."""
    position = []
    for axis in axes:
        if axis.kind == "weight":
            position.append(float(weights.get(axis.name, 0.0)))
        elif axis.values:
            if settings.get(axis.name) not in axis.values:
                return None
            position.append(float(axis.values.index(settings[axis.name])))
        else:
            value = settings.get(axis.name)
            if not isinstance(value, int | float):
                return None
            position.append(float(value))
    return tuple(position)
