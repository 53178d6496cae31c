"""The page of the study, made of its results: `python -m studies.mergopt.run --parts`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from aftermix.files import write_atomically
from studies.mergopt import landscape, paper, times
from studies.mergopt.crew import FEW, GROUPS
from studies.mergopt.results import Groups, Row, accuracy, minus, read, relative, shown, summary
from studies.mergopt.tables import (
    CONTROL,
    NAMES,
    chosen,
    differences_table,
    half_table,
    home_table,
    mixed_table,
    paper_table,
    sam_table,
    so,
    tally,
    values_table,
)
from studies.world.figures import Mean, difference, mean, table

HERE = Path(__file__).parent
PICTURE = "landscape.png"
Grids = dict[str, dict[str, list[list[float]]]]
"""Losses by pair and variant."""


def write_page(results: Path) -> None:
    """`README.md` beside the folder of results: the introduction, and a section for each part that has results."""
    sections = [section(results) for name, section in SECTIONS.items() if (results / f"{name}.json").is_file()]
    introduction = (HERE / "introduction.md").read_text(encoding="utf-8").strip()
    write_atomically(results.parent / "README.md", "\n\n".join([introduction, *filter(None, sections)]) + "\n")


def main(results: Path) -> str:
    """Experts alone and merged, and the paper's gains beside ours."""
    source, groups = read(results / "main.json")
    parts = [
        _head("Experts at home", source, groups),
        home_table(groups["alone"]),
        "## Merged",
        f"Of the {len(GROUPS) * len(NAMES)} merges (2, 4 and 6 experts by four methods): "
        + "; ".join(tally(groups, name) for name in _measured(groups))
        + ".",
    ]
    for count in sorted(GROUPS, reverse=True):
        columns = [f"{count} {name}" for name in NAMES]
        parts += [f"### {_sets(count)}", values_table(groups, columns), differences_table(groups, columns)]
        parts.append(chosen(groups, columns[1:]))
    column = f"{max(GROUPS)} Task Arithmetic"
    answered = {column: [row for row in groups[column] if row.accuracy is not None]}
    parts += [
        f"### Items answered right, {max(GROUPS)} experts, %",
        values_table(answered, [column], digits=1, figure=accuracy),
        differences_table(answered, [column], digits=1, figure=accuracy),
        "## The paper's gains beside ours",
        f"The paper's mean gain over eight cases of seven experts is +{paper.MEAN_GAIN} %, its best "
        f"+{paper.BEST_GAIN} %, in the average score; two figures are of two groups of tasks, or of 1B and 3B. Here a "
        "gain is a minus: bits per byte against the control's, in %.",
        paper_table(groups),
        "## SAM and ASAM",
        "MergOPT against SAM, six experts (Table 4). At equal steps:",
        sam_table(groups, equal_time=False),
        "At equal time SAM has half the steps:",
        sam_table(groups, equal_time=True),
        "But an expert of half the steps is another expert, whatever its optimizer:",
        half_table(groups),
    ]
    return "\n\n".join(parts)


def time(results: Path) -> str:
    """Seconds of a training step."""
    seconds = times.read(results / "time.json")
    rows = []
    for name, found in seconds.items():
        against = [f"{found[kind] / seconds[CONTROL][kind]:.2f}" for kind in ("median", "least")]
        printed = f"{paper.STEP[name]:.2f}" if name in paper.STEP else ""
        rows.append([name, f"{1000 * found['median']:.0f}", f"{1000 * found['least']:.0f}", *against, printed])
    return "\n\n".join(
        [
            "### Time of a step (Table 15)",
            "Of the training runs, one thread, by variant: the median, and the least. Other work shared the machine, "
            "more of it in some hours than in others, so only the least is worth comparing; the benchmark of the "
            "optimizers (`benchmarks/optimizers.py`) measures them side by side.",
            table(["", "median ms", "least ms", f"median against {CONTROL}", "least against it", "paper"], rows),
        ]
    )


def mixed(results: Path) -> str:
    """Pairs of two optimizers."""
    source, groups = read(results / "mixed.json")
    return "\n\n".join(
        [
            _head("Mixed pairs (Table 19)", source, groups),
            "Each pair of tasks, either expert being the merge-aware one; means over both.",
            *(mixed_table(groups, method) for method in groups),
        ]
    )


def sensitivity(results: Path) -> str:
    """Scale, learning rate, and the noise table."""
    source, groups = read(results / "sensitivity.json")
    columns = list(groups)
    scales = _of(groups, lambda name: name.startswith("aware") or name in (CONTROL, "fitted"))
    rows = groups["Task Arithmetic"]
    rates = []
    for suffix, label in (("-half", "half"), ("", "1"), ("-double", "double")):
        ours, theirs = f"fitted{suffix}", f"{CONTROL}{suffix}"
        cells = [label]
        for group in groups.values():
            cells += [shown(summary(group, theirs)), shown(minus(group, ours, theirs), sign=True)]
        rates.append([*cells, shown(relative(rows, ours, theirs), sign=True), f"{paper.RATES[label]:+.2f}"])
    heads = [cell for group in groups for cell in (f"{group}: {CONTROL}", "fitted minus it")]
    noise = [
        [group, shown(minus(own, "fitted-table", "fitted"), 3, sign=True), _even(own)] for group, own in groups.items()
    ]
    return "\n\n".join(
        [
            _head("Scale and learning rate (Tables 11, 24)", source, groups),
            f"Experts of {' and '.join(FEW)}: bits per byte, % of the base's. The paper's gains by scale, Task "
            f"Arithmetic: {', '.join(f'{scale} {gain:+.2f} %' for scale, gain in paper.SCALES.items())}.",
            values_table(scales, columns),
            differences_table(scales, columns),
            "By learning rate, each rate against its own control; the last columns are relative, in %, Task "
            "Arithmetic, here bits (a gain is a minus) and there the score:",
            table(["rate", *heads, "here", "paper"], rates),
            "## The noise table",
            "`noise: table` reads its noise from a shared table instead of drawing it anew. What that changes:",
            table(["", "fitted-table minus fitted, bits, % of base", "apart from zero?"], noise),
        ]
    )


def shown_landscape(results: Path) -> str:
    """The picture and how much of the square is near the best."""
    values = json.loads((results / "landscape.json").read_text(encoding="utf-8"))
    by_seed = {int(seed): grids for seed, grids in values["seeds"].items() if _is_whole(grids)}
    if not by_seed:
        return ""
    first = min(by_seed)
    side = values["coefficients"]
    landscape.draw(results.parent / PICTURE, by_seed[first], side, seed=first)
    rows = [row for pair in by_seed[first] for row in _landscape_rows(pair, list(by_seed.values()))]
    columns = ["", "best", "% of the square within 2 % of its own best", f"within 2 % of {CONTROL}'s best"]
    return "\n\n".join(
        [
            f"## Joint loss over two coefficients (Figure 2)\n\n`{values['command']}`. {values['machine']}. Seeds "
            f"{', '.join(map(str, by_seed))}.",
            "Mean over both tasks of bits per byte (of the text that coefficients are chosen on), % of the base's, on "
            f"{len(side)} x {len(side)} points from {side[0]:g} to {side[-1]:g}; the picture shows seed {first}.",
            f"![Joint loss of two tasks over both coefficients]({PICTURE})",
            table(columns, rows),
        ]
    )


def _landscape_rows(pair: str, by_seed: Sequence[Grids]) -> Iterator[list[str]]:
    """The best, and the shares of the square near it: of each variant, and their paired difference."""
    controls = [grids[pair][CONTROL] for grids in by_seed]
    near: dict[str, list[list[float]]] = {}
    for name in landscape.SHOWN:
        own = [grids[pair][name] for grids in by_seed]
        both = zip(own, controls, strict=True)
        common = [landscape.share_within(grid, best=_lowest(control)) for grid, control in both]
        near[name] = [[*map(_lowest, own)], [*map(landscape.share_within, own)], common]
        yield [f"{pair}: {name}", *_each(map(mean, near[name]))]
    pairs = zip(near["fitted"], near[CONTROL], strict=True)
    yield [f"{pair}: fitted minus {CONTROL}", *_each((difference(*pair) for pair in pairs), sign=True)]


def _each(found: Iterable[Mean], *, sign: bool = False) -> list[str]:
    return [value.shown(digits, sign=sign) for value, digits in zip(found, (2, 1, 1), strict=True)]


def vision(results: Path) -> str:
    """A small ViT on digits."""
    source, groups = read(results / "vision.json")
    if not groups:
        return ""
    base = groups.pop("base")
    columns = list(groups)
    printed = ", ".join(f"{name} {before} to {after}" for name, (before, after) in paper.VISION.items())
    names = list(dict.fromkeys(row.name for row in groups["alone"] if row.name != CONTROL))
    verdicts = [[name, *(so(rows, name, CONTROL, accuracy) for rows in groups.values())] for name in names]
    return "\n\n".join(
        [
            _head("Vision (Table 9)", source, groups),
            "A ViT of 136,138 parameters on scikit-learn's digits (8 x 8). The tasks are the digits turned by a "
            "quarter, turned by half, negative, and mirrored; all share the head. The base has seen 449 digits in all "
            "four views for 500 steps, an expert 719 others in one view for 120. Accuracy on 449 test images a task, "
            f"%. The base has {shown(summary(base, 'base', accuracy), 1)}. The paper, ten tasks, CLIP ViT-B/32: "
            f"{printed}.",
            values_table(groups, columns, digits=1, figure=accuracy),
            differences_table(groups, columns, digits=1, figure=accuracy),
            table(["better than constant?", *columns], verdicts),
            chosen(groups, columns[2:]),
        ]
    )


SECTIONS: dict[str, Callable[[Path], str]] = {
    "main": main,
    "time": time,
    "mixed": mixed,
    "sensitivity": sensitivity,
    "landscape": shown_landscape,
    "vision": vision,
}


def _head(title: str, source: dict[str, str], groups: Groups) -> str:
    by_name: dict[int, set[str]] = {}
    for rows in groups.values():
        for row in rows:
            by_name.setdefault(row.seed, set()).add(row.name)
    every = set().union(*by_name.values())
    lacking = [f"{name} of seed {seed}" for seed, names in sorted(by_name.items()) for name in sorted(every - names)]
    absent = f" Not measured yet: {', '.join(lacking)}." if lacking else ""
    seeds = ", ".join(map(str, sorted(by_name)))
    return f"## {title}\n\n`{source['command']}`. {source['machine']}. Seeds {seeds}.{absent}"


def _measured(groups: Groups) -> list[str]:
    return list(dict.fromkeys(row.name for row in groups["alone"] if row.name != CONTROL))


def _sets(count: int) -> str:
    return f"{count} experts: {'; '.join(', '.join(tasks) for tasks in GROUPS[count])}"


def _of(groups: Groups, chosen_names: Callable[[str], bool]) -> Groups:
    return {group: [row for row in rows if chosen_names(row.name)] for group, rows in groups.items()}


def _even(rows: Sequence[Row]) -> str:
    apart = minus(rows, "fitted-table", "fitted")
    return "" if apart is None or apart.half is None else "yes" if apart.is_apart_from_zero else "no"


def _is_whole(grids: Grids) -> bool:
    return bool(grids) and all(set(landscape.SHOWN) <= set(by_variant) for by_variant in grids.values())


def _lowest(grid: list[list[float]]) -> float:
    return min(map(min, grid))
