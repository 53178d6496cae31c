"""Rows of the study: kept as a file, and as means and paired differences over the seeds that are there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.measure import machine

from aftermix.files import write_atomically
from studies.world.figures import Mean, mean

Figure = Callable[["Row"], float | None]
Groups = dict[str, list["Row"]]


@dataclass(frozen=True)
class Row:
    """A merge of one seed, or an expert alone."""

    name: str
    seed: int
    tasks: tuple[str, ...]
    coefficient: float
    bits: float
    """Mean over the tasks of bits per byte of test text, % of the base's."""
    accuracy: float | None = None
    """Mean over the tasks of items answered right, %; None where they were not asked for."""


def bits(row: Row) -> float:
    """Fewer is better."""
    return row.bits


def accuracy(row: Row) -> float | None:
    """More is better."""
    return row.accuracy


def by_seed(rows: Iterable[Row], name: str, figure: Figure = bits) -> dict[int, float]:
    """The figure of `name` by seed: the mean over its groups of tasks where it has several."""
    found: dict[int, list[float]] = {}
    for row in rows:
        value = figure(row)
        if row.name == name and value is not None:
            found.setdefault(row.seed, []).append(value)
    return {seed: fmean(values) for seed, values in sorted(found.items())}


def summary(rows: Iterable[Row], name: str, figure: Figure = bits) -> Mean | None:
    """Mean and interval, None where nothing is measured."""
    values = list(by_seed(rows, name, figure).values())
    return mean(values) if values else None


def minus(rows: Sequence[Row], ours: str, theirs: str, figure: Figure = bits) -> Mean | None:
    """Paired difference on the seeds that both have."""
    first, second = by_seed(rows, ours, figure), by_seed(rows, theirs, figure)
    apart = [first[seed] - second[seed] for seed in first if seed in second]
    return mean(apart) if apart else None


def relative(rows: Sequence[Row], ours: str, theirs: str, figure: Figure = bits) -> Mean | None:
    """Paired gain, % of theirs, as the paper's tables print it."""
    first, second = by_seed(rows, ours, figure), by_seed(rows, theirs, figure)
    gains = [100 * (first[seed] / second[seed] - 1) for seed in first if seed in second]
    return mean(gains) if gains else None


def shown(value: Mean | None, digits: int = 2, *, sign: bool = False) -> str:
    """For a table, empty where nothing is measured."""
    return value.shown(digits, sign=sign) if value else ""


def names_of(rows: Iterable[Row]) -> list[str]:
    """In order of appearance."""
    return list(dict.fromkeys(row.name for row in rows))


def head() -> dict[str, str]:
    """Where results come from."""
    return {"command": " ".join(["python -m studies.mergopt.run", *sys.argv[1:]]), "machine": machine()}


def write(path: Path, groups: Groups) -> None:
    """One row a line."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head().items()]
    parts = [f"{json.dumps(group)}: [\n{_lines(rows)}\n]" for group, rows in groups.items()]
    grouped = '"groups": {\n' + ",\n".join(parts) + "\n}"
    text = "{" + ",\n".join([*lines, grouped]) + "}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def read(path: Path) -> tuple[dict[str, str], Groups]:
    """What :func:`write` wrote: where it comes from, and the groups."""
    values = json.loads(path.read_text(encoding="utf-8"))
    groups = {group: [_row(row) for row in rows] for group, rows in values.pop("groups").items()}
    return values, groups


def _lines(rows: Iterable[Row]) -> str:
    return ",\n".join(json.dumps(asdict(row)) for row in rows)


def _row(values: dict[str, Any]) -> Row:
    return Row(**{**values, "tasks": tuple(values["tasks"])})
