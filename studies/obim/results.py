"""Rows of a study as files, and as tables with intervals over seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.measure import machine

from aftermix.files import write_json
from studies.obim.case import Measured
from studies.world.figures import Mean, difference, mean, table
from studies.world.lab import Scores

Figure = Callable[[Measured], float]


def accuracy(row: Measured) -> float:
    """Mean share of right answers over the targets, %."""
    return row.accuracy


def bits(row: Measured) -> float:
    """Mean bits per byte over the targets, % of the base's."""
    return row.relative_bits


@dataclass(frozen=True)
class Study:
    """What one command has measured: groups of rows, each row of one seed."""

    name: str
    command: str
    machine: str
    groups: dict[str, list[Measured]]

    @staticmethod
    def of(name: str, groups: dict[str, list[Measured]]) -> Study:
        """Measured here and now."""
        quick = " --quick" if "--quick" in sys.argv else ""
        command = f"python -m studies.obim.{name}{quick}"
        return Study(name, command, machine(), groups)

    def write(self, folder: Path) -> None:
        """As `NAME.json`."""
        groups = {group: [asdict(row) for row in rows] for group, rows in self.groups.items()}
        values = {"command": self.command, "machine": self.machine, "groups": groups}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", values)

    @staticmethod
    def read(folder: Path, name: str) -> Study:
        """What :meth:`write` wrote."""
        values = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        groups = {group: [_row(row) for row in rows] for group, rows in values["groups"].items()}
        return Study(name, values["command"], values["machine"], groups)


def of_name(rows: Sequence[Measured], name: str, figure: Figure) -> list[float]:
    """The figure of one method by seed, in their order: the mean of its rows where it has several."""
    own = [row for row in rows if row.name == name]
    seeds = sorted({row.seed for row in own})
    return [fmean(figure(row) for row in own if row.seed == seed) for seed in seeds]


def names_of(rows: Sequence[Measured]) -> list[str]:
    """Methods in order of appearance."""
    return list(dict.fromkeys(row.name for row in rows))


def summary(rows: Sequence[Measured], name: str, figure: Figure) -> Mean:
    """Mean and interval of one method."""
    return mean(of_name(rows, name, figure))


def minus(rows: Sequence[Measured], ours: str, theirs: str, figure: Figure) -> Mean:
    """Paired difference of two methods."""
    return difference(of_name(rows, ours, figure), of_name(rows, theirs, figure))


def ranked(rows: Sequence[Measured], names: Sequence[str], figure: Figure) -> list[str]:
    """Names, the best first: most accuracy, fewest bits."""
    sign = -1 if figure is accuracy else 1
    return sorted(names, key=lambda name: sign * summary(rows, name, figure).value)


def methods_table(rows: Sequence[Measured], *, reference: str, paper: dict[str, float]) -> str:
    """One row a method: both figures, what the reference has more, each domain, the paper's average."""
    domains = list(rows[0].scores.accuracy)
    columns = ["", "accuracy %", "bits, % of base", f"{reference} minus it: accuracy", f"{reference} minus it: bits"]
    columns += [*domains, "setting", "paper"]
    body = []
    for name in names_of(rows):
        own = [row for row in rows if row.name == name]
        apart = ["", ""]
        if name != reference:
            apart = [minus(rows, reference, name, accuracy).shown(sign=True)]
            apart.append(minus(rows, reference, name, bits).shown(2, sign=True))
        each = [mean([row.scores.accuracy[domain] for row in own]).shown() for domain in domains]
        settings = "; ".join(dict.fromkeys(row.setting for row in own))
        shown = [summary(rows, name, accuracy).shown(), summary(rows, name, bits).shown(2)]
        body.append([name, *shown, *apart, *each, settings, f"{paper[name]:.2f}" if name in paper else ""])
    return table(columns, body)


def _row(values: dict[str, Any]) -> Measured:
    scores, base = Scores(**values["scores"]), Scores(**values["base"])
    return Measured(**{**values, "scores": scores, "base": base, "targets": tuple(values["targets"])})
