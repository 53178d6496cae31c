"""The whole study in one command: measure what is not measured yet, then write the results and the page.

What is not trained yet is named and left out: `python -m studies.mergopt.experts` trains it. With `--tiny` that is
done too, on a tiny world.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from studies.mergopt import landscape, measure, times, vision
from studies.mergopt.bench import Bench
from studies.mergopt.crew import missing
from studies.mergopt.experts import TINY_VARIANTS, make_variants
from studies.mergopt.page import write_page
from studies.mergopt.results import Groups, write
from studies.mergopt.vision_train import TINY_VISION, VisionSizes
from studies.world.layout import FOLDER, World
from studies.world.store import Store
from studies.world.tiny import parse_study

HERE = Path(__file__).parent
GROUPS: dict[str, Callable[[Bench, int], measure.Grouped]] = {
    "main": measure.main,
    "mixed": measure.mixed,
    "sensitivity": measure.sensitivity,
}
PARTS = (*GROUPS, "landscape", "vision")


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="none writes the page alone")
    parser.add_argument("--world", type=Path, default=FOLDER)
    parser.add_argument("--measurements", type=Path, help="folder of what has been measured")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--found-only", action="store_true", help="measure nothing: a page of what is there")
    parser.add_argument("--measure-alone", action="store_true", help="write no results, e.g. one process for each seed")
    return parser


def tiny(folder: Path) -> dict[str, Path]:
    """Where a tiny study is written."""
    return {"results": folder / "mergopt" / "results"}


def main() -> None:
    """Measure and write."""
    options = parse_study(arguments(), tiny)
    world = World.open(options.world.resolve())
    if world.tiny:
        make_variants(world, TINY_VARIANTS, seeds=options.seed, threads=options.threads)

    kept = options.measurements or world.folder.parent / "mergopt" / "measurements"
    absent = missing(world, options.seed)
    if absent:
        print(f"not trained yet, left out: {', '.join(absent)}", flush=True)
    benches = {
        seed: Bench(world, Store(kept / f"seed-{seed}.jsonl"), threads=options.threads, found_only=options.found_only)
        for seed in options.seed
    }
    for name in options.parts:
        if name in GROUPS:
            write_if(options, name, grouped(benches, name))
    if "landscape" in options.parts:
        grids = {seed: landscape.measure(bench, seed) for seed, bench in benches.items()}
        if not options.measure_alone:
            landscape.write(options.results / "landscape.json", grids, landscape.coefficients(world))
    if "vision" in options.parts:
        sizes = world.pick(VisionSizes(), tiny=TINY_VISION)
        found = vision.measure(
            kept.parent, options.seed, threads=options.threads, found_only=options.found_only, sizes=sizes
        )
        write_if(options, "vision", found)
    if not options.measure_alone:
        if options.parts:
            times.write(options.results / "time.json", world, options.seed)
        write_page(options.results)


def grouped(benches: dict[int, Bench], name: str) -> Groups:
    """All rows of a part by group."""
    groups: Groups = {}
    for seed, bench in benches.items():
        for group, row in GROUPS[name](bench, seed):
            groups.setdefault(group, []).append(row)
        print(f"seed {seed}, {name}: {bench.store.measured} measured", flush=True)
    return groups


def write_if(options: argparse.Namespace, name: str, groups: Groups) -> None:
    """Write a part's results, unless only measurements are wanted."""
    if not options.measure_alone:
        write(options.results / f"{name}.json", groups)


if __name__ == "__main__":
    main()
