"""A fitted response as plain values and arrays of one dimension, and back: what a file holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import AftermixError
from aftermix.response.margins import UNBOUNDED, ChoiceItems
from aftermix.response.response_model import LeftOutScores, ResponseModel
from aftermix.response.surface.coordinates import MergeCoordinates, MergePoints
from aftermix.response.surface.kernel import ResponseKernel
from aftermix.response.surface.process import ResponseProcess
from aftermix.response.task_response import OutputScale, TaskResponse
from aftermix.response.tempered import TemperedScore

Description = Mapping[str, Any]
"""The values of `response.json`, as its record gives them."""
Arrays = dict[str, NDArray[Any]]
LEFT_OUT = ("predicted", "smooth", "measured")
NEW_FIT = "Run `aftermix search --resume` on this folder: it fits the response anew from what was measured."


def pack_response(
    model: ResponseModel, coordinates: MergeCoordinates, trials: tuple[int, ...]
) -> tuple[dict[str, Any], Arrays]:
    """Values and arrays of `model`, which was fitted to `trials` seen in `coordinates`."""
    arrays: Arrays = {
        "numbers": model.points.numbers_ND.ravel(),
        "choices": model.points.choices_NS.ravel(),
        "variances": model.variances_N,
    }
    for name, task in model.tasks.items():
        arrays |= {f"{name}/{key}": array for key, array in _list_task_arrays(task).items()}
        arrays |= {f"{name}/{key}": getattr(model.left_out[name], f"{key}_N") for key in LEFT_OUT}

    description = {
        "trials": trials,
        "vectors": coordinates.vectors,
        "normalised": coordinates.normalised,
        "numbers": coordinates.numbers,
        "choices": {name: tuple(values) for name, values in (coordinates.choices or {}).items()},
        "kernel": _describe_kernel(model.process.kernel),
        **({"placed": True} if coordinates.placed else {}),
        "tasks": {
            name: _describe_task(task, model.process) | {"sampling": model.left_out[name].sampling}
            for name, task in model.tasks.items()
        },
    }
    return description, arrays


def unpack_response(
    description: Description, arrays: Arrays, *, where: str = "response.json"
) -> tuple[ResponseModel, MergeCoordinates]:
    """Inverse of :func:`pack_response`. Raises :class:`AftermixError` at `where` for a kernel that is none there."""
    try:
        return _unpack(description, arrays)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise AftermixError(where, f"expected a kernel of its points, found {error}", NEW_FIT) from error


def _unpack(description: Description, arrays: Arrays) -> tuple[ResponseModel, MergeCoordinates]:
    coordinates = MergeCoordinates(
        tuple(description["vectors"]),
        description["normalised"],
        tuple(description["numbers"]),
        dict(description["choices"]),
        placed=description.get("placed", False),
    )
    merges = len(description["trials"])
    points = MergePoints(
        arrays["numbers"].reshape(merges, -1 if arrays["numbers"].size else 0),
        arrays["choices"].reshape(merges, len(description["choices"])),
    )

    process = _build_process(description["kernel"], points)
    tasks = {name: _build_task(name, task, arrays, process) for name, task in description["tasks"].items()}
    left_out = {name: _read_left_out(name, arrays, task.get("sampling")) for name, task in description["tasks"].items()}
    return ResponseModel(points, process, tasks, left_out, arrays["variances"]), coordinates


def _read_left_out(name: str, arrays: Arrays, sampling: float | None) -> LeftOutScores:
    """A response of old does not know what the items explain: all scatter is the merge's own."""
    predicted_N, smooth_N, measured_N = (arrays[f"{name}/{key}"] for key in LEFT_OUT)
    return LeftOutScores(predicted_N, smooth_N, measured_N, sampling or 0.0)


def _list_task_arrays(task: TaskResponse) -> Arrays:
    arrays: Arrays = {
        "whitened": task.whitened_NR.ravel(),
        "shares": task.shares_I,
        "documents": task.documents_I.astype(np.int64),
    }
    if task.items is not None:
        arrays |= {"offsets": task.items.offsets.astype(np.int64), "gold": task.items.gold_I.astype(np.int64)}
    return arrays


def _describe_kernel(kernel: ResponseKernel) -> dict[str, Any]:
    return {"variances": tuple(kernel.logs.tolist()), "lengths": tuple(kernel.lengths_D.tolist())}


def _describe_task(task: TaskResponse, shared: ResponseProcess) -> dict[str, Any]:
    scale, tempered = task.scale, task.tempered
    bound = None if scale is None or scale.bound == UNBOUNDED else scale.bound
    return {
        "used": task.used,
        "items": len(task.shares_I),
        "outputs": task.whitened_NR.shape[1],
        "choices": task.items is not None,
        "scale": scale and {"level": scale.level, "bound": bound, "unit": scale.unit},
        "tempered": tempered
        and {"temperature": tempered.temperature, "slope": tempered.slope, "intercept": tempered.intercept},
        "kernel": None if task.process is shared else _describe_kernel(task.process.kernel),
    }


def _build_process(kernel: Description, points: MergePoints) -> ResponseProcess:
    return ResponseProcess.build(ResponseKernel(np.array(kernel["variances"]), np.array(kernel["lengths"])), points)


def _build_task(name: str, task: Description, arrays: Arrays, shared: ResponseProcess) -> TaskResponse:
    process = shared if task["kernel"] is None else _build_process(task["kernel"], shared.points)
    scale, items = task["scale"], None
    if task["choices"]:
        # Stored outputs are in the metric's unit: the lengths that they were divided by are not needed again.
        items = ChoiceItems(arrays[f"{name}/offsets"], arrays[f"{name}/gold"], np.ones(task["outputs"]))

    return TaskResponse(
        name=name,
        used=task["used"],
        process=process,
        whitened_NR=arrays[f"{name}/whitened"].reshape(len(shared.points), task["outputs"]),
        shares_I=arrays[f"{name}/shares"],
        documents_I=arrays[f"{name}/documents"],
        scale=scale and OutputScale(scale["level"], scale["bound"] or UNBOUNDED, scale["unit"]),
        items=items,
        tempered=task["tempered"] and TemperedScore(**task["tempered"]),
    )
