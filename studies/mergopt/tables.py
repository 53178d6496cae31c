"""The page's tables of merges: values by variant, differences from the control, and what the paper prints beside."""

from __future__ import annotations

from collections.abc import Sequence

from studies.mergopt import paper
from studies.mergopt.crew import HALF
from studies.mergopt.methods import METHODS
from studies.mergopt.results import (
    Figure,
    Groups,
    Row,
    accuracy,
    bits,
    minus,
    names_of,
    relative,
    shown,
    summary,
)
from studies.obim.claims import verdict
from studies.world.figures import table

CONTROL = "constant"
OURS = ("aware", "fitted")
NAMES = tuple(method.name for method in METHODS)


def values_table(groups: Groups, columns: Sequence[str], *, digits: int = 2, figure: Figure = bits) -> str:
    """One row a variant, one column a group: mean and interval."""
    rows = [groups.get(column, []) for column in columns]
    body = [[name, *(shown(summary(own, name, figure), digits) for own in rows)] for name in _names(rows)]
    return table(["", *map(_label, columns)], body)


def differences_table(groups: Groups, columns: Sequence[str], *, digits: int = 2, figure: Figure = bits) -> str:
    """The same minus the control, paired by seed."""
    rows = [groups.get(column, []) for column in columns]
    others = [name for name in _names(rows) if name not in (CONTROL, "base")]
    body = [[name, *(shown(minus(own, name, CONTROL, figure), digits, sign=True) for own in rows)] for name in others]
    return table([f"minus {CONTROL}", *map(_label, columns)], body)


def chosen(groups: Groups, columns: Sequence[str]) -> str:
    """Which coefficients won on select text, over all variants and seeds."""
    parts = []
    for column in columns:
        found = sorted({row.coefficient for row in groups.get(column, [])})
        parts.append(f"{_label(column)} {', '.join(f'{value:.2g}' for value in found)}")
    return f"Coefficients: {'; '.join(parts)}."


def home_table(rows: Sequence[Row]) -> str:
    """Each expert alone, with the paper's averages."""
    theirs = {CONTROL: 0, "aware": 1}
    body = []
    for name in names_of(rows):
        printed = ", ".join(f"{pair[theirs[name]]:.4f}" for pair in paper.ALONE) if name in theirs else ""
        apart = ["", ""]
        if name != CONTROL:
            apart = [shown(minus(rows, name, CONTROL, bits), sign=True)]
            apart.append(shown(minus(rows, name, CONTROL, accuracy), 1, sign=True))
        own = [shown(summary(rows, name, bits)), apart[0], shown(summary(rows, name, accuracy), 1), apart[1]]
        body.append([name, *own, printed])
    columns = ["", "bits, % of base", f"minus {CONTROL}", "accuracy %", f"minus {CONTROL}", "paper's score, 1B, 3B"]
    return table(columns, body)


def paper_table(groups: Groups) -> str:
    """The paper's gains beside ours: both are relative to AdamW's own figure, in %; fewer bits are a gain."""
    body = []
    for printed, gains in paper.GAINS.items():
        column = printed.replace("7 ", "6 ")
        rows = groups.get(column, [])
        label = f"{_label(printed)} of {printed[0]}" + (" (here 6)" if printed.startswith("7") else "")
        cells = [label, ", ".join(f"{gain:+.2f}" for gain in gains)]
        for name in OURS:
            cells += [shown(relative(rows, name, CONTROL), sign=True), so(rows, name, CONTROL)]
        body.append(cells)
    return table(["", "paper: score, %", "aware: bits, %", "so?", "fitted: bits, %", "so?"], body)


def sam_table(groups: Groups, *, equal_time: bool) -> str:
    """MergOPT against SAM by method (Table 4): the paper's gain in score, ours in bits."""
    printed = paper.OVER_SAM_AT_EQUAL_TIME if equal_time else paper.OVER_SAM
    rival = f"sam{HALF}" if equal_time else "sam"
    body = []
    for method, gain in printed.items():
        rows = groups.get(f"6 {method}", [])
        cells = [method, f"{gain:+.2f}"]
        for name in OURS:
            cells += [shown(relative(rows, name, rival), sign=True), so(rows, name, rival)]
        body.append(cells)
    return table(["", "paper: score, %", "aware: bits, %", "better?", "fitted: bits, %", "better?"], body)


def half_table(groups: Groups) -> str:
    """SAM and ASAM at half the steps against the control at half the steps: the optimizer without the shorter run."""
    body = []
    for method in NAMES:
        rows, cells = groups.get(f"6 {method}", []), [method]
        for name in ("sam", "asam"):
            ours, theirs = f"{name}{HALF}", f"{CONTROL}{HALF}"
            cells += [shown(minus(rows, ours, theirs), sign=True), so(rows, ours, theirs)]
        cells += [shown(minus(rows, f"{CONTROL}{HALF}", CONTROL), sign=True), so(rows, f"{CONTROL}{HALF}", CONTROL)]
        body.append(cells)
    columns = [
        "bits, % of base",
        f"sam minus {CONTROL}, both at half",
        "better?",
        f"asam minus {CONTROL}, both at half",
    ]
    return table([*columns, "better?", f"{CONTROL}: half minus all steps", "better?"], body)


def mixed_table(groups: Groups, method: str) -> str:
    """Pure and mixed pairs (Table 19)."""
    rows = groups[method]
    pure = f"{CONTROL} + {CONTROL}"
    printed = dict(
        zip([pure, *(f"{CONTROL} + aware", "aware + aware")], map("{:.4f}".format, paper.MIXED[method]), strict=True)
    )
    body = []
    for name in sorted(names_of(rows), key=lambda pair: (pair.split(" + ")[1], pair.split(" + ")[0] != CONTROL)):
        apart = "" if name == pure else shown(minus(rows, name, pure), sign=True)
        verdict_here = "" if name == pure else so(rows, name, pure)
        body.append([name, shown(summary(rows, name)), apart, verdict_here, printed.get(name, "")])
    body.sort(key=lambda cells: cells[0] != pure)
    return table([method, "bits, % of base", f"minus {pure}", "better?", "paper's score"], body)


def so(rows: Sequence[Row], ours: str, theirs: str, figure: Figure = bits) -> str:
    """Whether ours is better, by the interval over seeds; nothing with a single seed."""
    apart = minus(rows, ours, theirs, figure)
    if apart is None or apart.half is None:
        return ""
    return verdict(apart, higher_is_better=figure is accuracy)


def tally(groups: Groups, name: str, *, against: str = CONTROL) -> str:
    """How many of the merges are better, level and worse than the control's, in words."""
    columns = [f"{count} {method}" for count in (2, 4, 6) for method in NAMES]
    found = [so(groups[column], name, against) for column in columns if column in groups]
    words = {"yes": "better", "within noise": "within noise", "reversed": "worse"}
    counted = [f"{found.count(key)} {word}" for key, word in words.items() if key in found]
    return f"{name} against {against}: {', '.join(counted) or 'one seed, no interval'}"


def _names(groups: Sequence[Sequence[Row]]) -> list[str]:
    return list(dict.fromkeys(name for rows in groups for name in names_of(rows)))


def _label(column: str) -> str:
    return column.split(" ", 1)[1] if column[0].isdigit() else column
