"""Memory of a merge of 27 B parameters, for real on files of holes; an estimate of its time from 4 GB of real files.

    python benchmarks/large_merge.py --folder BENCH --holes --vectors 6
    python benchmarks/large_merge.py --folder BENCH --estimate

The holes are checkpoints whose headers and lengths are right and of which no block is stored: they read as zeros. The
result is dropped, so that memory is what a merge of that size takes, and nothing is said of disks. The estimate is the
seconds for each GB that a merge of real files reads, not in the cache, times the GB of the large one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measure import Cost, describe_machine, forget_files, run
from merge import make_models, weights_of
from sparse_models import SMALL, make_holes, merge_into_nothing, write_merge
from tiny import parse_options

from aftermix.cli import cli

SHAPE = Path(__file__).resolve().parents[1] / "examples" / "scale" / "gemma-3-27b"
PARAMETERS = 27_009_346_304
LIMIT_S = 600
"""Seconds after which a merge of holes stops and tells how far it came."""
GB = 1e9
TINY = {"parameters": 1e4, "vectors": 2, "small": True}


def merge_holes(options: argparse.Namespace) -> Iterator[str]:
    """Lines on the memory of a merge that reads nothing but holes and drops its result."""
    folder = options.folder / f"holes-{options.vectors}"
    shutil.rmtree(folder, ignore_errors=True)
    values = json.loads((Path(options.shape) / "config.json").read_text(encoding="utf-8"))
    folders = make_holes(folder, SMALL if options.small else values, options.vectors)
    stored = sum(path.stat().st_blocks * 512 for path in folder.rglob("*.safetensors"))
    length = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))

    cost, told = _merge_here(folder, options.limit_s) if options.small else _merge_apart(folder, options.limit_s)
    shutil.rmtree(folder)
    merged, whole, read = (told[key] / GB for key in ("merged_bytes", "bytes", "read_bytes"))
    seconds, private, resident = told["seconds"], cost.private_mb, told["peak_rss_bytes"] / 1e6
    yield (
        f"{describe_machine(told['threads'])} {len(folders) - 1} vectors and the base, {told['parameters']:,} "
        f"parameters each: {length / GB:,.1f} GB long, {stored / 1e6:,.1f} MB stored. Merged {merged:,.1f} of "
        f"{whole:,.1f} GB in {seconds:,.0f} s ({read / seconds:.2f} GB of holes read a second), {cost.cpu_s:,.0f} CPU "
        f"s. Peak private memory {private:,.0f} MB; with the pages of files that the system has not taken back "
        f"{resident:,.0f} MB."
    )


def _merge_apart(folder: Path, limit_s: float) -> tuple[Cost, dict[str, Any]]:
    """The merge in a process of its own, whose memory is watched."""
    script = Path(__file__).with_name("sparse_models.py")
    cost = run([sys.executable, str(script), str(folder), str(limit_s)])
    return cost, json.loads((folder / "told.json").read_text(encoding="utf-8"))


def _merge_here(folder: Path, limit_s: float) -> tuple[Cost, dict[str, Any]]:
    """The merge in this process, for tiny input."""
    told = dict(merge_into_nothing(folder, limit_s=limit_s))
    return Cost(told["seconds"], told["seconds"], 0.0), told


def estimate(options: argparse.Namespace) -> Iterator[str]:
    """Lines on the time of the large merge, scaled from one of real files."""
    vectors = options.vectors
    folders = make_models(options.folder / f"{vectors}-vectors", options.parameters, vectors)
    files = weights_of(folders)
    read = sum(Path(name).stat().st_size for name in files)
    folder = options.folder / "estimate"
    folder.mkdir(parents=True, exist_ok=True)
    file = write_merge(folder, folders)

    seconds = []
    for _ in range(options.rounds):
        forget_files(files)
        shutil.rmtree(folder / "merged", ignore_errors=True)
        started = time.perf_counter()
        cli.main(["merge", str(file), "-o", str(folder / "merged")], standalone_mode=False)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    large = (vectors + 1) * 2 * PARAMETERS
    shutil.rmtree(folder / "merged")
    rounds = ", ".join(f"{each:.1f}" for each in seconds)
    yield (
        f"{describe_machine(torch.get_num_threads())} {vectors} vectors and the base, {read / GB:.2f} GB of real "
        f"files, not in the cache: {median:.1f} s (rounds {rounds}), {median / read * GB:.2f} s for a GB read. "
        f"Estimate, no measurement, for {large / GB:,.0f} GB of 27 B parameters: {median / read * large / 60:,.0f} "
        "minutes."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the models are made")
    parser.add_argument("--holes", action="store_true")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--parameters", type=float, default=0.3e9, help="of each real model")
    parser.add_argument("--vectors", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1, help="of the real merge")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds after which `--holes` stops")
    parser.add_argument("--shape", type=Path, default=SHAPE, help="folder with the config.json of the holes")
    parser.set_defaults(small=False)
    options = parse_options(parser, lambda folder: {"folder": folder / "large", **TINY})
    if options.folder is None:
        parser.error("--folder is missing: where shall the models be made?")

    both = options.holes == options.estimate
    if both or options.holes:
        print("\n".join(merge_holes(options)), flush=True)
    if both or options.estimate:
        print("\n".join(estimate(options)))


if __name__ == "__main__":
    main()
