"""Prepared vectors combined into a live model, against one fused pass over the same bytes.

    python benchmarks/combine.py --folder /tmp/bench --parameters 0.3e9

The fused pass is a kernel that PyTorch's compiler makes for exactly this sum: it reads the base (bfloat16) and every
prepared vector (float32) once and writes the live parameter (float32) once. It needs a C++ compiler, aftermix does not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import machine
from merge import make_models
from tiny import parse_options

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.merging.recipe import MergeRecipe

WEIGHT = 0.25


def prepared(folders: list[Path]) -> PreparedVectors:
    vectors = {path.name: VectorConfig(model=str(path), weight=WEIGHT) for path in folders[1:]}
    config = Config(base=str(folders[0]), vectors=vectors, merge=MergeConfig(method="task_arithmetic"))
    return prepare_vectors(Merger.build(open_pool(config), MergeRecipe.from_config(config.merge)))


def combine(vectors: PreparedVectors, live: dict[str, torch.Tensor]) -> None:
    for _ in vectors.stream_merged(
        dict.fromkeys(vectors.merger.vectors, WEIGHT), place=lambda name: live[name].view(-1)
    ):
        pass


def fused_pass(vectors: PreparedVectors, live: dict[str, torch.Tensor], *, backend: str) -> Callable[[], None]:
    def kernel(base: torch.Tensor, out: torch.Tensor, kept: list[torch.Tensor]) -> None:
        total = base.float()
        for tensor in kept:
            total = total + tensor * WEIGHT
        out.copy_(total)

    compiled = torch.compile(kernel, dynamic=True, backend=backend)
    operands = [
        (vectors.merger.pool.frame.read_block(info.name, (0, info.elements)), live[info.name].reshape(-1), kept)
        for info in vectors.moved
        for kept in [list(vectors.kept[info.name].values())]
    ]

    def run() -> None:
        for operand in operands:
            compiled(*operand)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the models are made")
    parser.add_argument("--parameters", type=float, default=0.3e9)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--backend", default="inductor", help="of torch.compile; `eager` needs no C++ compiler")
    arguments = parse_options(
        parser, lambda folder: {"folder": folder / "models", "parameters": 1e4, "rounds": 1, "backend": "eager"}
    )
    if arguments.folder is None:
        parser.error("--folder is missing: where shall the models be made?")

    vectors = prepared(make_models(arguments.folder, arguments.parameters))
    live = {info.name: torch.zeros(info.shape) for info in vectors.moved}
    fused = fused_pass(vectors, live, backend=arguments.backend)
    passes: dict[str, Callable[[], None]] = {"one fused pass": fused, "combine": lambda: combine(vectors, live)}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(arguments.rounds + 1):
        for name in passes if number % 2 else reversed(passes):
            started = time.perf_counter()
            passes[name]()
            if number:  # the first round compiles
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [ours / theirs for ours, theirs in zip(seconds["combine"], seconds["one fused pass"], strict=True)]
    print(f"{machine()}, {torch.get_num_threads()} threads, {arguments.parameters:.1e} parameters, 4 vectors.\n")
    print("| what | median s |\n|---|---|")
    print("\n".join(f"| {name} | {value:.3f} |" for name, value in medians.items()))
    print(f"\nMedian ratio, round by round: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
