"""Train what needs no result of a mixture run: `python -m studies.mergemix.train --seed 0 1 2`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from studies.mergemix.domains import DOMAINS, MANIFEST, make_domains
from studies.mergemix.models import Trainer, part_names, small_base
from studies.mergemix.plan import LONG, PART_TOKENS, SHORT, TINY_CHECKED, checked
from studies.world.layout import FOLDER, World
from studies.world.tiny import parse_study


def main() -> None:
    """Experts, mixtures of known ratios, and the small base with its experts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--folder", type=Path, default=FOLDER, dest="world")
    parser.add_argument("--parts", nargs="+", choices=("large", "small"), default=["large", "small"])
    options = parse_study(parser)
    world = World.open(options.world.resolve())
    folder = world.folder.parent / "mergemix"
    make_domains(world, folder)
    corpora = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["corpora"]
    mixtures = checked(corpora, most=world.pick(None, tiny=TINY_CHECKED))
    for seed in options.seed:
        if "large" in options.parts:
            large = Trainer(world, folder, world.base, "large", seed, options.threads)
            for name in DOMAINS:
                large.single(name, tokens=SHORT)
            for name, shares in mixtures.items():
                large.mixed(name, shares, tokens=SHORT)
            for name in part_names():
                large.single(name, tokens=PART_TOKENS)
            large.mixed("uniform", mixtures["uniform"], tokens=LONG)
        if "small" in options.parts:
            base = small_base(world, folder, threads=options.threads)
            small = Trainer(world, folder, str(base), "small", seed, options.threads)
            for name in DOMAINS:
                small.single(name, tokens=SHORT)


if __name__ == "__main__":
    main()
