"""Content of the page's data block: all that its script computes predictions from, and what it shows of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from aftermix.report.desk.axes import SHARE, DeskSpace, Position
from aftermix.report.desk.compression import CompressedOutputs, compress_outputs, encode_bytes
from aftermix.report.desk.marks import DeskMerge
from aftermix.report.desk.position_text import TextPiece
from aftermix.report.number_format import ScoreScale
from aftermix.response.calibration import CONFIDENCE
from aftermix.response.measurements import compute_sampling_variance
from aftermix.response.response_model import ResponseModel
from aftermix.response.surface.coordinates import Floats, Integers, MergePoints
from aftermix.response.surface.process import ResponseProcess
from aftermix.response.task_response import TaskResponse

# S positions, N merges, J columns, I items

FAR = 2.0
"""Times the median deviation of the measured merges from which on a prediction is not to be relied on."""
FITTED, HELD_OUT = 256, 256
"""Positions that outputs are compressed for, and those that the error is measured at."""
TOLERANCE = 1e-4
"""Largest error of a score by its compression, over the scale of a score: a hundredth of a point."""


@dataclass(frozen=True)
class DeskProcess:
    """A kernel: variances in the order of `VARIANCES`, `unlike` as a rate, and lengths."""

    variances: tuple[float, ...]
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class DeskTask:
    """A task: its outputs are how far an item's right answer is ahead of each other one, over the temperature."""

    process: int
    """Number of its process."""
    outputs: CompressedOutputs
    columns: tuple[int, ...] | int
    """Columns of each item, or of every item."""
    items: int
    slope: float
    intercept: float
    is_soft: bool
    """False where the columns are the items' scores themselves."""
    shares: str | None
    """(I,) of float64 in base 64; None where all items count alike."""
    documents: tuple[int, ...] | None
    """(I,) None where every item has a document of its own."""


@dataclass(frozen=True)
class DeskScore:
    """A score that is shown: an objective or a task."""

    name: str
    weights: tuple[tuple[int, float], ...]
    """Number of a task and its weight in the score."""
    half_width: float
    """Half of the interval at a deviation of 1, before the sampling of documents and the scatter are added."""
    scatter: float
    """Deviation of the metric about its tempered score."""
    low: float
    """Ends of its axis."""
    high: float


@dataclass(frozen=True)
class DeskSlider:
    """An axis as the script needs it."""

    kind: str
    name: str
    low: float
    high: float
    step: float | None
    texts: tuple[str, ...]
    """Choices as a file has them."""


@dataclass(frozen=True)
class DeskPayload:
    """The data block."""

    sliders: tuple[DeskSlider, ...]
    shares: tuple[int, ...]
    """Axes that are shares of one whole."""
    presets: tuple[Position, ...]
    start: Position
    normalised: bool
    numbers: list[list[float]]
    """(N, D) coordinates of the measured merges."""
    choices: list[list[int]]
    processes: tuple[DeskProcess, ...]
    tasks: tuple[DeskTask, ...]
    scores: tuple[DeskScore, ...]
    quantile: float
    """Of the normal distribution, for the sampling of documents."""
    limit: float
    """Deviation above which a prediction is not to be relied on."""
    median: float
    """Median of the deviations at the measured merges."""
    factor: float
    decimals: int
    merges: tuple[DeskMerge, ...]
    recipe: tuple[TextPiece, ...]
    command: tuple[TextPiece, ...]

    def to_script(self) -> Markup:
        """The block's text, without a character that could end it."""
        text = json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - no `<` is left


def build_tasks(model: ResponseModel, space: DeskSpace) -> tuple[tuple[DeskProcess, ...], tuple[DeskTask, ...]]:
    """All processes, that of the log-likelihoods first, and all tasks in the model's order."""
    positions = space.scatter((FITTED + HELD_OUT - 1).bit_length())
    fitted = space.locate([*positions[:FITTED], *(preset.position for preset in space.presets)])
    fitted = fitted.join(model.points)
    held_out = space.locate(positions[FITTED : FITTED + HELD_OUT])

    processes = [model.process]
    tasks = []
    for name, task in model.tasks.items():
        if not any(process is task.process for process in processes):
            processes.append(task.process)
        number = next(place for place, process in enumerate(processes) if process is task.process)
        scale = max(1.0, float(np.abs(model.left_out[name].measured_N).max(initial=0.0)))
        tasks.append(_build_task(task, number, fitted, held_out, TOLERANCE * scale))
    return tuple(map(_build_process, processes)), tuple(tasks)


def build_score(
    model: ResponseModel,
    name: str,
    weights: Mapping[str, float],
    reach: Sequence[float],
    *,
    limits: tuple[float, float],
) -> DeskScore:
    """The score `sum_t weights_t score_t`, on an axis that has all of `reach` on it as far as `limits`."""
    places = list(model.tasks)
    low, high, calibration = min(reach), max(reach), model.calibrate(weights)
    margin = 0.04 * (high - low) or 0.01
    return DeskScore(
        name=name,
        weights=tuple((places.index(task), weight) for task, weight in weights.items()),
        half_width=calibration.half_width,
        scatter=calibration.line_deviation,
        low=max(low - margin, limits[0]),
        high=min(high + margin, limits[1]),
    )


def build_sliders(space: DeskSpace, texts: Mapping[str, tuple[str, ...]]) -> tuple[DeskSlider, ...]:
    """All axes; `texts` are the choices of a setting as a file has them."""
    return tuple(
        DeskSlider(axis.kind, axis.name, axis.low, axis.high, axis.step, texts.get(axis.name, ()))
        for axis in space.axes
    )


def build_payload(
    model: ResponseModel,
    space: DeskSpace,
    scores: Sequence[DeskScore],
    *,
    scale: ScoreScale,
    merges: Sequence[DeskMerge],
    texts: Mapping[str, tuple[str, ...]],
    recipe: Sequence[TextPiece],
    command: Sequence[TextPiece],
) -> DeskPayload:
    """The data block of `model` with `scores` and `merges` to show."""
    processes, tasks = build_tasks(model, space)
    median = float(np.median(np.sqrt(model.variances_N)))
    return DeskPayload(
        sliders=build_sliders(space, texts),
        shares=tuple(place for place, axis in enumerate(space.axes) if axis.name.startswith(SHARE)),
        presets=tuple(preset.position for preset in space.presets),
        start=space.start,
        normalised=space.coordinates.normalised,
        numbers=model.points.numbers_ND.tolist(),
        choices=model.points.choices_NS.tolist(),
        processes=processes,
        tasks=tasks,
        scores=tuple(scores),
        quantile=float(norm.ppf(0.5 + CONFIDENCE / 2)),
        limit=FAR * median,
        median=median,
        factor=scale.factor,
        decimals=scale.decimals,
        merges=tuple(merges),
        recipe=tuple(recipe),
        command=tuple(command),
    )


def _build_process(process: ResponseProcess) -> DeskProcess:
    kernel = process.kernel
    return DeskProcess(tuple(np.exp(kernel.logs).tolist()), tuple(np.exp(kernel.lengths_D).tolist()))


def _build_task(
    task: TaskResponse, process: int, fitted: MergePoints, held_out: MergePoints, tolerance: float
) -> DeskTask:
    kept_I = task.shares_I > 0
    shares_I, documents_I = task.shares_I[kept_I], _number_anew(task.documents_I[kept_I])
    columns_NJ, counts_I = _take_columns(task, kept_I)
    slope, intercept = (task.tempered.slope, task.tempered.intercept) if task.tempered else (1.0, 0.0)

    def score(columns_SJ: Floats) -> Floats:
        """Mean and width of the sampling at each position."""
        items_SI = columns_SJ
        if task.tempered:
            offsets_I = np.concatenate([[0], np.cumsum(counts_I)[:-1]]).astype(np.int64)
            items_SI = intercept + slope * expit(np.minimum.reduceat(columns_SJ, offsets_I, axis=1))
        variance_S = compute_sampling_variance(items_SI.astype(np.float32), shares_I, documents_I)
        return np.stack([items_SI @ shares_I, norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(variance_S)])

    rows, held_out_rows = task.process.compute_rows(fitted), task.process.compute_rows(held_out)
    return DeskTask(
        process=process,
        outputs=compress_outputs(columns_NJ, rows, held_out_rows, score, tolerance=tolerance),
        columns=int(counts_I[0]) if len(set(counts_I.tolist())) == 1 else tuple(counts_I.tolist()),
        items=len(shares_I),
        slope=slope,
        intercept=intercept,
        is_soft=task.tempered is not None,
        shares=None if np.ptp(shares_I) == 0 else encode_bytes(shares_I.astype("<f8")),
        documents=None if len(set(documents_I.tolist())) == len(documents_I) else tuple(documents_I.tolist()),
    )


def _take_columns(task: TaskResponse, kept_I: NDArray[np.bool_]) -> tuple[Floats, Integers]:
    """(N, J) whitened columns of the items that count, and (I,) how many each has: one, or one for each wrong answer.

    The smallest column of an item is its gap over the temperature.
    """
    whitened_NR = task.whitened_NR.astype(np.float64)
    temperature = task.tempered.temperature if task.tempered else 1.0
    if task.items is None:
        return whitened_NR[:, kept_I] / temperature, np.ones(int(kept_I.sum()), dtype=np.int64)

    counts_I = task.items.counts
    rights_I = task.items.offsets[:-1] + task.items.gold_I
    wrong_R = np.repeat(kept_I, counts_I)
    wrong_R[rights_I] = False
    ahead_NR = whitened_NR[:, np.repeat(rights_I, counts_I)] - whitened_NR
    return ahead_NR[:, wrong_R] / temperature, counts_I[kept_I] - 1


def _number_anew(documents_I: Integers) -> Integers:
    """The same groups, numbered from 0 without a gap."""
    return np.unique(documents_I, return_inverse=True)[1].astype(np.int64)
