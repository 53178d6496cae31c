"""Is this a world in which merging can be studied? `python -m studies.world.check` writes the answer to `README.md`.

Each expert should gain several standard errors at home, and the sum of all should not fall far below the base.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import machine

from aftermix.files import write_atomically
from studies.world.experts import SIBLING
from studies.world.figures import mean, table
from studies.world.lab import ITEMS, Lab, Point, Scores
from studies.world.layout import FOLDER, World
from studies.world.store import Store
from studies.world.tiny import parse_study

HERE = Path(__file__).parent
SUM = {"method": "task_arithmetic"}
COEFFICIENTS = (0.15, 0.3, 0.5, 1.0)


CAUTION = """\
A standard error is that of the difference of two unpaired shares of one seed's items. In bits per byte every expert \
gains many times the spread between seeds; in items answered right only `problems` gains several standard errors, the \
others two or fewer. So bits per byte tell methods apart here, and accuracy mostly does not. `it` has no domain of its \
own: it reads general text in the tasks' prompt format, and does not gain on English at this rate."""


def home_rows(labs: Sequence[tuple[int, Lab]]) -> Iterator[list[str]]:
    """Each expert on its own domain, and on the base's; the sibling on the base's alone."""
    world = labs[0][1].world
    for name in (*world.domains, SIBLING):
        domains = (world.general,) if name == SIBLING else (name, world.general)
        found = [(_scores(lab, seed, {}, domains), _scores(lab, seed, {name: 1.0}, domains)) for seed, lab in labs]
        home, items = domains[0], ITEMS["test"]
        gains = [after.accuracy[home] - before.accuracy[home] for before, after in found]
        error = math.sqrt(2) * _standard_error(found[0][0].accuracy[home], items)
        yield [
            name,
            f"{found[0][0].accuracy[home]:.1f}",
            mean([after.accuracy[home] for _, after in found]).shown(),
            f"{mean(gains).value / error:+.1f}" if error else "-",  # no spread where all answers are alike
            f"{found[0][0].bits[home]:.3f}",
            mean([after.bits[home] for _, after in found]).shown(3),
            mean([after.relative_bits(before, (home,)) - 100 for before, after in found]).shown(1, sign=True),
            mean([after.bits[world.general] for _, after in found]).shown(3),
        ]


def sum_rows(labs: Sequence[tuple[int, Lab]], names: Sequence[str]) -> Iterator[list[str]]:
    """The experts `names` summed, on their own domains: bits per byte of select text, % of the base's."""
    for coefficient in (1 / len(names), *COEFFICIENTS):
        figures = []
        for seed, lab in labs:
            base = _scores(lab, seed, {}, names, part="select")
            merged = _scores(lab, seed, dict.fromkeys(names, coefficient), names, part="select")
            figures.append(merged.relative_bits(base, names))
        yield [f"{len(names)} experts at {coefficient:.2f}", mean(figures).shown()]


def _scores(lab: Lab, seed: int, weights: dict[str, float], domains: Sequence[str], *, part: str = "test") -> Scores:
    models = {name: lab.world.expert(name, seed=seed) for name in weights}
    return lab.measure(models, Point(SUM, weights), domains, part)  # type: ignore[arg-type]


def _standard_error(accuracy: float, items: int) -> float:
    return math.sqrt(accuracy * (100 - accuracy) / items)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--folder", type=Path, default=FOLDER, dest="world")
    parser.add_argument("--page", type=Path, default=HERE / "README.md", help="what is written")
    options = parse_study(parser, lambda folder: {"page": folder / "world" / "README.md"})
    world = World.open(options.world.resolve())
    lab = Lab(world, Store(world.folder / "measurements.jsonl"), threads=options.threads)
    labs = [(seed, lab) for seed in options.seed]
    columns = ["expert", "base at home, accuracy %", "it at home", "gain in standard errors"]
    columns += ["base at home, bits per byte", "it at home", "change in %"]
    columns.append(f"it on {world.general}, bits per byte")
    text = (HERE / "introduction.md").read_text(encoding="utf-8").strip()
    sums = [*sum_rows(labs, ("ja", "math", "code")), *sum_rows(labs, world.domains)]
    parts = [
        text,
        "## Is it one in which merging can be studied?",
        f"`python -m studies.world.check`. {machine()}. Seeds {', '.join(map(str, options.seed))}; means with 95 % "
        f"t-intervals over seeds, {ITEMS['test']} test items a domain.",
        table(columns, list(home_rows(labs))),
        CAUTION,
        "Summed (task arithmetic), on the domains of the experts that are summed:",
        table(["sum", "bits per byte, % of base"], sums),
    ]
    write_atomically(options.page, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
