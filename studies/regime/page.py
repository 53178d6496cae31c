"""The page of the study: the introduction, tables of what was measured, and what the rule says of each way."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aftermix.files import write_atomically
from studies.world.figures import Mean, table

HERE = Path(__file__).parent
Row = dict[str, Any]


def write_page(results: Path) -> None:
    """Write `README.md` beside the folder of results."""
    training, sharing = (json.loads((results / f"{name}.json").read_text()) for name in ("training", "sharing"))
    parts = [
        (HERE / "introduction.md").read_text(encoding="utf-8").rstrip(),
        f"## Training\n\n{describe_command('--variants adamw WAY')} {training['machine']}.",
        build_table(training["rows"], ["best", "beyond", "home"]),
        f"## Sharing a merge out\n\n{describe_command('--variants adamw')} {sharing['machine']}.",
        build_table(sharing["rows"], ["best"]),
    ]
    write_atomically(results.parent / "README.md", "\n\n".join(parts) + "\n")


def describe_command(options: str) -> str:
    """The command that trains and measures the figures of a row, for each pair of a world and a seed that it is of."""
    return f"A row: `python -m studies.regime.run {options}`; one pair of it with `--world WORLD --seed SEED`."


def build_table(rows: Sequence[Row], figures: Sequence[str]) -> str:
    """Means over worlds and seeds, their paired differences from the first variant, and what the rule says."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    control, worlds = names[0], list(dict.fromkeys(row["world"] for row in rows))
    columns = [
        *figures,
        *(f"{figure} minus {control}" for figure in figures),
        *(f"best, {w}" for w in worlds),
        "pairs",
        "kept?",
    ]

    body = []
    for name in names:
        cells = [f"{statistics.fmean(_place(rows, name, figure).values()):.2f}" for figure in figures]
        apart = [compare(rows, name, control, figure) for figure in figures] if name != control else []
        cells += [each.shown(2, sign=True) for each in apart] or [""] * len(figures)
        own = [compare([row for row in rows if row["world"] == world], name, control, "best") for world in worlds]
        cells += [each.shown(2, sign=True) for each in own] if apart else [""] * len(worlds)
        cells += [str(len(_place(rows, name, "best"))), judge(apart[0])] if apart else ["", ""]
        body.append([name, *cells])
    return table(["", *columns], body)


def compare(rows: Sequence[Row], ours: str, theirs: str, figure: str) -> Mean:
    """Mean paired difference over worlds and seeds, with half of its 90 % t-interval."""
    from scipy.stats import t

    first, second = _place(rows, ours, figure), _place(rows, theirs, figure)
    apart = [first[place] - second[place] for place in first if place in second]
    if len(apart) < 2:
        return Mean(apart[0] if apart else math.nan, None)
    quantile = float(t.ppf(0.95, len(apart) - 1))
    return Mean(statistics.fmean(apart), quantile * statistics.stdev(apart) / math.sqrt(len(apart)))


def judge(apart: Mean) -> str:
    """What the rule says of a difference in loss: `wins`, `loses` or `within noise`."""
    if not apart.is_apart_from_zero:
        return "within noise"
    return "wins" if apart.value < 0 else "loses"


def _place(rows: Sequence[Row], name: str, figure: str) -> dict[tuple[str, int], float]:
    """By world and seed."""
    return {(row["world"], row["seed"]): row[figure] for row in rows if row["variant"] == name}
