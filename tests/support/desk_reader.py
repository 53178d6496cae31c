"""The mixing desk's data block, read and computed with in NumPy from its own numbers alone."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DATA = re.compile(r'<script type="application/json" id="desk-data">(.*?)</script>', re.DOTALL)


class DeskReader:
    """The block of one page."""

    def __init__(self, page: Path) -> None:
        (text,) = DATA.findall(page.read_text(encoding="utf-8"))
        self.data: dict[str, Any] = json.loads(text)
        self.numbers, self.choices = (np.array(self.data[key]) for key in ("numbers", "choices"))
        self.factors = [self._factorise(process) for process in self.data["processes"]]

    @property
    def names(self) -> list[str]:
        """Scores that are shown, objectives first."""
        return [score["name"] for score in self.data["scores"]]

    def predict(self, position: list[float]) -> dict[str, tuple[float, float, float]]:
        """Score -> mean, low and high."""
        rows = [self._compute_row(place, *self._locate(position)) for place in range(len(self.factors))]
        deviation = self.compute_deviation(position)
        tasks = [self._predict_task(task, rows[task["process"]]) for task in self.data["tasks"]]

        predicted = {}
        for score in self.data["scores"]:
            mean = sum(weight * tasks[task][0] for task, weight in score["weights"])
            variance = sum(weight**2 * tasks[task][1] for task, weight in score["weights"])
            spread = np.hypot(score["scatter"], np.sqrt(variance))
            half = np.hypot(score["half_width"] * deviation, self.data["quantile"] * spread)
            predicted[score["name"]] = (mean, mean - half, mean + half)
        return predicted

    def compute_deviation(self, position: list[float]) -> float:
        """Standard deviation of an output in the common unit."""
        numbers, choices = self._locate(position)
        row = self._compute_row(0, numbers, choices)
        process = self.data["processes"][0]
        own = _compute_kernel(process, numbers[None], choices[None], numbers[None], choices[None])[0, 0]
        return float(np.sqrt(max(own - row @ row, 0.0)))

    def _locate(self, position: list[float]) -> tuple[Floats, Floats]:
        by_kind: dict[str, list[float]] = {"weight": [], "number": [], "choice": []}
        for slider, value in zip(self.data["sliders"], position, strict=True):
            by_kind[slider["kind"]].append(value)
        weights = np.array(by_kind["weight"])
        if self.data["normalised"]:
            total = max(np.abs(weights).sum(), 1e-3)
            weights = np.array([*(weights / total), np.log(total)])
        return np.array([*weights, *by_kind["number"]]), np.array(by_kind["choice"])

    def _factorise(self, process: dict[str, Any]) -> Floats:
        covariance = _compute_kernel(process, self.numbers, self.choices, self.numbers, self.choices)
        return np.linalg.cholesky(covariance + process["variances"][4] * np.eye(len(covariance)))

    def _compute_row(self, place: int, numbers: Floats, choices: Floats) -> Floats:
        process = self.data["processes"][place]
        cross = _compute_kernel(process, self.numbers, self.choices, numbers[None], choices[None])
        return np.asarray(np.linalg.solve(self.factors[place], cross)[:, 0])

    def _predict_task(self, task: dict[str, Any], row: Floats) -> tuple[float, float]:
        outputs, items = task["outputs"], task["items"]
        counts = np.broadcast_to(task["columns"], items)
        mixing = np.frombuffer(base64.b64decode(outputs["mixing"]), "<f4").reshape(len(row), outputs["directions"])
        data, basis = base64.b64decode(outputs["basis"]), []
        for width in outputs["widths"]:
            length = width * int(counts.sum())
            basis.append(np.frombuffer(data[:length], f"<i{width}") * outputs["step"])
            data = data[length:]

        values = row @ mixing @ np.array(basis).reshape(outputs["directions"], int(counts.sum()))
        if task["is_soft"]:
            gaps = np.minimum.reduceat(values, np.concatenate([[0], np.cumsum(counts)[:-1]]))
            values = task["intercept"] + task["slope"] / (1 + np.exp(-gaps))
        shares = np.full(items, 1 / items)
        if task["shares"] is not None:
            shares = np.frombuffer(base64.b64decode(task["shares"]), "<f8")
        mean = shares @ values
        documents = np.arange(items) if task["documents"] is None else np.array(task["documents"])
        return float(mean), float((np.bincount(documents, shares * (values - mean)) ** 2).sum())


def _compute_kernel(process: dict[str, Any], ours: Floats, mine: Floats, theirs: Floats, others: Floats) -> Floats:
    constant, linear, quadratic, radial, _, unlike = process["variances"]
    ours, theirs = ours / process["lengths"], theirs / process["lengths"]
    product = ours @ theirs.T
    square = ((ours[:, None] - theirs[None]) ** 2).sum(axis=2)
    bent = linear * product + quadratic * product**2 + radial * np.exp(-square / 2)
    differ = (mine[:, None] != others[None]).sum(axis=2) if mine.shape[1] else 0
    return np.asarray(constant + bent * np.exp(-unlike * np.asarray(differ)))
