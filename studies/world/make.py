"""Make the world, once: `python -m studies.world.make --seed 0 1 2`.

Data and tasks are the same for every seed; experts, instruction sibling and long run are of a seed. With `--tiny` all
is made in seconds, of made-up text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tiny import parse_options

from studies.world.layout import FOLDER, MANIFEST, World


def main() -> None:
    """Make what is missing."""
    options = parse_options(_parser(), lambda folder: {"seed": [0], "threads": 1, "folder": folder / "world"})
    folder = options.folder.resolve()
    seeds = [] if options.data_alone else options.seed
    world = make_world(folder, seeds=seeds, threads=options.threads, tiny=options.tiny is not None)
    if seeds:
        print(f"{folder}: {', '.join(world.measured)}; seeds {', '.join(map(str, seeds))}")


def make_world(folder: Path, *, seeds: Sequence[int], threads: int, tiny: bool = False) -> World:
    """Data, and experts of so many seeds: what is missing of them."""
    folder = folder.resolve()
    if not (folder / MANIFEST).is_file():
        from studies.world.data import make_data

        make_data(folder, tiny=tiny)
    world = World.open(folder)
    if seeds:
        from studies.world.experts import make_experts

        for seed in seeds:
            make_experts(world, seed=seed, threads=threads)
    return world


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--data-alone", action="store_true", help="no experts yet")
    return parser


if __name__ == "__main__":
    main()
