"""Two checkouts of aftermix against each other: what the same merges take, in pairs.

    python benchmarks/merge_versions.py OLD NEW --folder BENCH --pairs 9

OLD and NEW are folders that hold `src`. Merges of base and four experts alternate, each whole command in a process of
its own; every second pair begins with NEW, so that a drifting machine favours neither. Prints the median over the pairs
of what NEW took over what OLD took, with an interval that holds the true median with a probability of at least 90 %,
from order statistics; of fewer than five pairs it is only their range.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measure import Cost, machine, run, side_by_side
from merge import METHODS, log, make_models, write_config
from tiny import parse_options

LEVEL = 0.9
COMMAND = """
import sys
from pathlib import Path

import aftermix
from aftermix.cli import main

source = Path(sys.argv.pop(1))
if not Path(aftermix.__file__).is_relative_to(source):
    sys.exit(f"{aftermix.__file__} was imported, expected a file of {source}")
sys.exit(main())
"""


@dataclass(frozen=True)
class RatioSummary:
    """Median of the ratios of pairs, and an interval for it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def summarise_ratios(ratios: Sequence[float]) -> RatioSummary:
    """Median of `ratios` with the shortest interval of their order statistics that is sure enough.

    The true median is below the k-th smallest of n with the probability that fewer than k of n coins show heads.
    """
    ordered, outside = sorted(ratios), 1.0 - LEVEL
    count = len(ordered)
    ranks = (
        k for k in range(1, count // 2 + 1) if 2 * sum(math.comb(count, i) for i in range(k)) <= outside * 2**count
    )
    rank = max(ranks, default=1)
    return RatioSummary(statistics.median(ordered), ordered[rank - 1], ordered[-rank])


def merge(checkout: Path, folder: Path, folders: list[Path], method: str) -> Cost:
    """One merge by the code of `checkout`."""
    source = checkout.resolve() / "src"
    config = write_config(folder, folders, method, METHODS[method])
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [sys.executable, "-c", COMMAND, str(source), "merge", str(config), "-o", str(folder / "out")]
    return run(command, env={"PYTHONPATH": str(source)})


def format_table(costs: dict[str, list[Cost]], methods: Sequence[str]) -> str:
    """A row for each method: seconds of OLD, and the ratios."""
    rows = []
    for method in methods:
        pairs = list(zip(costs[f"{method}: old"], costs[f"{method}: new"], strict=True))
        cpu_s, wall_s = (statistics.median(getattr(old, key) for old, _ in pairs) for key in ("cpu_s", "wall_s"))
        cpu = summarise_ratios([new.cpu_s / old.cpu_s for old, new in pairs])
        wall = summarise_ratios([new.wall_s / old.wall_s for old, new in pairs])
        rows.append(f"| {method} | {len(pairs)} | {cpu_s:.2f} | {cpu} | {wall_s:.2f} | {wall} |")

    head = [
        "| method | pairs | old CPU s | CPU, new / old | old wall s | wall, new / old |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([f"{machine()}, {os.cpu_count()} threads.", "", *head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?", type=Path, metavar="OLD", help="checkout to compare with")
    parser.add_argument("new", nargs="?", type=Path, metavar="NEW", help="checkout that is measured")
    parser.add_argument("--folder", type=Path, help="where the models are made")
    parser.add_argument("--parameters", type=float, default=0.2e9)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=["ties", "linear"], choices=list(METHODS))
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parse_options(parser, choose_tiny_options)
    if arguments.new is None or arguments.folder is None:
        parser.error("OLD, NEW and --folder are needed: which checkouts, and where shall the models be made?")

    arguments.folder.mkdir(parents=True, exist_ok=True)
    folders = make_models(arguments.folder, arguments.parameters, arguments.experts)
    commands: dict[str, Callable[[], Cost]] = {
        f"{method}: {name}": partial(merge, checkout, arguments.folder, folders, method)
        for method in arguments.methods
        for name, checkout in (("old", arguments.old), ("new", arguments.new))
    }

    # What a first run has to do, compiling modules and reading files from disk, is no part of the comparison.
    for command in () if arguments.tiny else commands.values():
        command()
    costs = side_by_side(commands, rounds=arguments.pairs, log=log)
    print(format_table(costs, arguments.methods))


def choose_tiny_options(folder: Path) -> dict[str, object]:
    """This checkout against itself."""
    here = Path(__file__).resolve().parents[1]
    options = {"old": here, "new": here, "folder": folder / "versions"}
    return {**options, "parameters": 1e4, "experts": 2, "methods": ["ties"], "pairs": 1}


if __name__ == "__main__":
    main()
