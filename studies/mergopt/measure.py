"""All merges of the study, group by group: each gives rows of one seed for the variants that are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from studies.mergopt.bench import SUM, Bench, NotMeasured
from studies.mergopt.crew import EQUAL_STEPS, EQUAL_TIME, FEW, GROUPS, OF_FEW, TASKS, Kind, trained
from studies.mergopt.methods import AVERAGING, METHODS, TASK_ARITHMETIC, TIES, merged
from studies.mergopt.results import Row
from studies.world.lab import Point

Grouped = Iterator[tuple[str, Row]]
ANSWERED = (TASK_ARITHMETIC,)
"""Methods whose merges of all tasks answer items, too: most of the cost, and little is told apart by them."""
CONTROL, PARTNERS = "constant", ("aware", "fitted")


def main(bench: Bench, seed: int) -> Grouped:
    """Every variant alone, and merged two, four and six at a time; those at equal time six at a time alone."""
    for kind in trained(bench.world, (*EQUAL_STEPS, *EQUAL_TIME), seed=seed):
        yield from whole(_of_kind(bench, kind, seed=seed))


def _of_kind(bench: Bench, kind: Kind, *, seed: int) -> Grouped:
    yield from (("alone", row) for row in alone(bench, kind, TASKS, seed=seed, items=not kind.half))
    for count, sets in GROUPS.items():
        if kind.half and count != len(TASKS):
            continue
        for method in METHODS:
            items = count == len(TASKS) and method in ANSWERED and not kind.half
            for tasks in sets:
                models = kind.models(bench.world, tasks, seed=seed)
                row = merged(bench, models, method, name=kind.name, seed=seed, items=items)
                yield f"{count} {method.name}", row


def alone(bench: Bench, kind: Kind, tasks: tuple[str, ...], *, seed: int, items: bool = False) -> Iterator[Row]:
    """Each expert at home."""
    for task in tasks:
        models, point = kind.models(bench.world, (task,), seed=seed), Point(SUM, {task: 1.0})
        home = (task,)
        found = bench.scores(models, point, home) if items else bench.bits(models, point, home, "test")
        accuracy = found.accuracy[task] if items else None
        relative = found.relative_bits(bench.base(home, "test"), home)
        yield Row(kind.name, seed, home, 1.0, relative, accuracy)


def sensitivity(bench: Bench, seed: int) -> Grouped:
    """Scales, learning rates and the noise table, on the few tasks they are trained on."""
    for kind in trained(bench.world, (*EQUAL_STEPS, *OF_FEW), seed=seed):
        yield from whole(_of_few(bench, kind, seed=seed))


def _of_few(bench: Bench, kind: Kind, *, seed: int) -> Grouped:
    # Equal-steps experts answer items at home in the main part: the same measurement.
    items = kind in EQUAL_STEPS
    yield from (("alone", row) for row in alone(bench, kind, FEW, seed=seed, items=items))
    models = kind.models(bench.world, FEW, seed=seed)
    for method in (AVERAGING, TASK_ARITHMETIC):
        yield method.name, merged(bench, models, method, name=kind.name, seed=seed)


def mixed(bench: Bench, seed: int) -> Grouped:
    """Pairs of which one is trained by AdamW, the other merge-aware, both ways; and pure pairs."""
    kinds = {kind.name: kind for kind in trained(bench.world, EQUAL_STEPS, seed=seed)}
    partners = [name for name in PARTNERS if name in kinds]
    if CONTROL not in kinds:
        return
    for name in (CONTROL, *partners):
        yield from whole(_of_pairs(bench, [(kinds[name], kinds[name])], seed=seed))
    for name in partners:
        both_ways = [(kinds[CONTROL], kinds[name]), (kinds[name], kinds[CONTROL])]
        yield from whole(_of_pairs(bench, both_ways, seed=seed))


def _of_pairs(bench: Bench, pairs: list[tuple[Kind, Kind]], *, seed: int) -> Grouped:
    for method in (TASK_ARITHMETIC, TIES):
        for tasks in GROUPS[2]:
            for pair in pairs:
                both = zip(pair, tasks, strict=True)
                models = {task: kind.model(bench.world, task, seed=seed) for kind, task in both}
                names = sorted((kind.name for kind in pair), key=lambda name: name != CONTROL)
                yield method.name, merged(bench, models, method, name=" + ".join(names), seed=seed)


def whole(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """All of them, or none when one would have to be measured and only what is there is wanted."""
    try:
        return list(rows)
    except NotMeasured:
        return []
