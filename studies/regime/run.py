"""The whole study: train what is missing, measure it, write results and page; goes on where it was killed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import machine
from benchmarks.tiny import parse_options

from aftermix.files import write_json
from studies.regime.experts import VARIANTS, Bench, make_experts
from studies.regime.measure import measure
from studies.regime.page import write_page
from studies.regime.sharing import measure_sharing
from studies.regime.worlds import ROOT, TINY, WORLDS, Sizes
from studies.world.store import Store

HERE = Path(__file__).parent
KEYS = ("world", "seed", "variant")


def main() -> None:
    """Train, measure, write."""
    options = parse_options(
        _parser(), lambda folder: {"seed": [0], "folder": folder / "regime", "results": folder / "regime" / "results"}
    )
    torch.set_num_threads(options.threads)
    sizes = TINY if options.tiny else Sizes()

    rows, shared = [], []
    for world in (each for each in WORLDS if each.name in (options.world or [each.name])):
        for seed in options.seed:
            bench = Bench(world, seed, options.folder, sizes)
            make_experts(bench, options.variants)
            store = Store(options.folder / "measurements.jsonl")
            found = measure(bench, store, options.variants)
            rows += [{"world": world.name, "seed": seed, "variant": name, **row} for name, row in found.items()]
            sharing = measure_sharing(bench, store)
            shared += [{"world": world.name, "seed": seed, "variant": name, **row} for name, row in sharing.items()]
            print(f"{world.name}, seed {seed}: measured", flush=True)
    write_results(options, "training", rows)
    write_results(options, "sharing", shared)
    write_page(options.results)


def write_results(options: argparse.Namespace, name: str, rows: list[dict[str, Any]]) -> None:
    """Write `rows`, with those of other worlds, seeds and variants that an earlier call has written."""
    path = options.results / f"{name}.json"
    earlier = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    places = {tuple(row[key] for key in KEYS): row for row in [*earlier, *rows]}
    write_json(path, {**describe_run(), "rows": list(places.values())})


def _place_tiny(folder: Path) -> dict[str, Any]:
    return {"seed": [0], "world": ["gpt2"], "folder": folder / "regime", "results": folder / "regime" / "results"}


def describe_run() -> dict[str, str]:
    """Command and machine of the results."""
    return {"command": " ".join(["python -m studies.regime.run", *sys.argv[1:]]), "machine": machine()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--world", nargs="+", choices=[world.name for world in WORLDS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "studies" / "regime")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser


if __name__ == "__main__":
    main()
