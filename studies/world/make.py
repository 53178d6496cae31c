"""Make the world, once: `python -m studies.world.make --seed 0 1 2`.

Data and tasks are the same for every seed; experts, instruction sibling and long run are of a seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.world.layout import FOLDER, MANIFEST, World


def main() -> None:
    """Make what is missing."""
    options = _parser().parse_args()
    folder = options.folder.resolve()
    if not (folder / MANIFEST).is_file():
        from studies.world.data import make_data

        make_data(folder)
    world = World.open(folder)
    if options.data_alone:
        return
    from studies.world.experts import make_experts

    for seed in options.seed:
        make_experts(world, seed=seed, threads=options.threads)
    print(f"{folder}: {', '.join(world.measured)}; seeds {', '.join(map(str, options.seed))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--data-alone", action="store_true", help="no experts yet")
    return parser


if __name__ == "__main__":
    main()
