"""The whole study: `python -m studies.mergemix.run --seed 0 1 2`. What is there is not made again.

One file of results for each seed in `results/`, and the page. With `--tiny` all of it in seconds, on a tiny world.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

from aftermix.files import write_json
from studies.mergemix.domains import make_domains
from studies.mergemix.measure import Scale
from studies.mergemix.page import RESULTS, write_page
from studies.mergemix.plan import LONG, SHORT
from studies.mergemix.steps import Seed
from studies.world.layout import FOLDER, World
from studies.world.tiny import parse_study

LONGER = ("uniform", "regmix", "mergemix", "mergemix-small")
"""Ratios that are trained at the longer horizon too."""
TINY_LONGER = ("mergemix",)


def main() -> None:
    """Seed by seed, then the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--folder", type=Path, default=FOLDER, dest="world")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parse_study(parser, lambda folder: {"results": folder / "mergemix" / "results"})
    world = World.open(options.world.resolve())
    folder = world.folder.parent / "mergemix"
    make_domains(world, folder)
    scale = Scale(world, folder, base=world.base, label="large", threads=options.threads)
    options.results.mkdir(parents=True, exist_ok=True)
    for seed in options.seed:
        found = results_of(Seed(world, folder, seed, options.threads, scale))
        write_json(options.results / f"seed-{seed}.json", {"seed": seed, "machine": machine(), **found})
    write_page(options.results)


def results_of(seed: Seed) -> dict[str, Any]:
    """Everything that is said of one seed."""
    ratios, nested = seed.ratios(), seed.nested()
    anew, halves = seed.recalibrated()
    longer = seed.world.pick(LONGER, tiny=TINY_LONGER)
    return {
        "sizes": seed.sizes,
        "base": seed.scale.base(),
        "checked": seed.checked,
        "merged": seed.merged(),
        "merged_small": seed.merged_small(),
        "trained": seed.trained(),
        "experts": {name: seed.scale.model(folder) for name, folder in seed.experts.items()},
        "ratios": ratios | {"nested": nested, "recalibrated": anew},
        "short": seed.retrained(ratios, SHORT),
        "long": seed.retrained({**{name: ratios[name] for name in longer}, "nested": nested}, LONG),
        "halves": halves,
    }


if __name__ == "__main__":
    main()
