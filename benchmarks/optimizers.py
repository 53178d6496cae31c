"""The cost of a merge-aware step beside AdamW's, SAM's and ASAM's: whole steps of a real Llama, and memory.

    python benchmarks/optimizers.py [--rounds 7] [--parameters 5] [--sequences 8] [--context 128] [--device cpu]
    python benchmarks/optimizers.py --memory [--parameters 14]

A step is forward, backward, clipping and update. Every round takes one step with each optimizer, every second round in
reverse order, so that a drifting machine favours none; each optimizer has a model of its own. Reported are medians, and
the median over rounds of the ratio to AdamW's step of that round, with its quartiles. On one CPU thread the time is
that of the process, which other work on the machine lengthens least; else it is the wall's. Budget: at most 1.05 for
merge_aware.

`--memory` takes steps with each optimizer in a process of its own and reports the peak of its memory beyond AdamW's, in
copies of the weights. Budget: 1 in copy mode.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tiny import parse_options
from transformers import LlamaConfig, LlamaForCausalLM

from aftermix.training import ASAM, SAM, MergeAware

OPTIMIZERS: dict[str, Callable[[torch.optim.Optimizer], torch.optim.Optimizer]] = {
    "adamw": lambda base: base,
    "merge_aware": MergeAware,
    "merge_aware, gaussian": lambda base: MergeAware(base, distribution="gaussian"),
    "merge_aware, noise table": lambda base: MergeAware(base, noise="table"),
    "merge_aware, regenerate": lambda base: MergeAware(base, memory="regenerate"),
    "sam": SAM,
    "asam": ASAM,
}
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Makes glibc give large tensors back at once: the peak is then of what is alive, not of gaps between it."""


TINY = {
    "parameters": 1,
    "rounds": 1,
    "sequences": 1,
    "context": 8,
    "only": ["merge_aware", "merge_aware, regenerate", "asam"],
}


def llama(millions: int) -> LlamaForCausalLM:
    """A tied Llama of about so many million parameters, vocabulary 4,096."""
    width = {1: 128, 5: 256, 14: 384}.get(millions, 256)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers={1: 4, 5: 6, 14: 8}.get(millions, 6),
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


class Runner:
    """One model with its optimizer."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.model = llama(options.parameters).to(options.device)
        self.optimizer: Any = OPTIMIZERS[name](torch.optim.AdamW(self.model.parameters(), lr=2e-5, fused=True))
        self.ids = torch.randint(0, 4096, (options.sequences, options.context), device=options.device)

    def step(self) -> float:
        """Seconds of one whole step."""
        started = self.clock()
        self.optimizer.zero_grad()
        if isinstance(self.optimizer, SAM):
            self.optimizer.gradient_of(self.gradient)
        elif isinstance(self.optimizer, MergeAware):
            with self.optimizer.perturbed():
                self.gradient()
        else:
            self.gradient()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.ids.is_cuda:
            torch.cuda.synchronize()
        return self.clock() - started

    def clock(self) -> float:
        """Seconds."""
        alone = self.ids.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    def gradient(self) -> None:
        """A forward and a backward pass."""
        self.model(input_ids=self.ids, labels=self.ids).loss.backward()

    def kept(self) -> float:
        """Memory that moving the weights takes, in copies of the trainable parameters."""
        if not isinstance(self.optimizer, MergeAware | SAM):
            return 0.0
        if isinstance(self.optimizer, SAM):
            self.gradient()
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        residues = 0
        for _ in range(8 if isinstance(self.optimizer, MergeAware) else 1):  # the residues depend on the draw
            with self.optimizer.perturbed():
                copies = sum(copy.nbytes for copy in self.optimizer._copies._copies.values())
                if isinstance(self.optimizer, MergeAware):
                    residues = max(residues, self.optimizer._regeneration.kept_bytes)
            for group in self.optimizer.param_groups:
                group["merge_aware_draws"] = group.get("merge_aware_draws", 0) + 1
        origins = sum(origin.nbytes for origin in getattr(self.optimizer, "_origins", {}).values())
        return (copies + origins + residues) / weights


def main() -> None:
    """Measure and print one table, with `--tiny` both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parameters", type=int, default=5, choices=[1, 5, 14], help="millions")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--memory", action="store_true", help="measure peaks instead of times")
    parser.add_argument("--peak", choices=list(OPTIMIZERS), help=argparse.SUPPRESS)
    options = parse_options(parser, lambda _: TINY)
    if options.peak:
        print_peak(options)
        return
    if not options.memory:
        measure_times(options)
    if options.memory or options.tiny:
        measure_memory(options)


def measure_times(options: argparse.Namespace) -> None:
    """Whole steps of all optimizers in turn, as one table."""
    runners = {name: Runner(name, options) for name in dict.fromkeys(["adamw", *options.only])}
    for runner in runners.values():
        runner.step()
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(options.rounds):
        for name in list(runners) if number % 2 == 0 else list(reversed(runners)):
            seconds[name].append(runners[name].step())
    count = sum(parameter.numel() for parameter in runners["adamw"].model.parameters())
    print(f"{count / 1e6:.1f} M parameters, {options.sequences} x {options.context} tokens a step,")
    threads = torch.get_num_threads()
    print(f"{threads} thread(s), {options.device}, torch {torch.__version__}, {options.rounds} rounds\n")
    print("| optimizer | ms a step | x AdamW, median | quartiles | extra copies of the weights |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [ours / plain for ours, plain in zip(times, seconds["adamw"], strict=True)]
        print(
            f"| {name} | {1000 * statistics.median(times):.0f} | {statistics.median(ratios):.3f} "
            f"| {_quartiles(ratios)} | {runners[name].kept():.2f} |"
        )


def _quartiles(values: list[float]) -> str:
    first, _, third = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"{first:.3f} to {third:.3f}"


def measure_memory(options: argparse.Namespace) -> None:
    """Peaks of processes that take a few steps each, as one table."""
    weights = sum(parameter.nbytes for parameter in llama(options.parameters).parameters())
    command = [sys.executable, __file__, "--sequences", "1", "--context", "16", "--rounds", "8"]
    command += ["--parameters", str(options.parameters), "--device", "cpu", "--peak"]
    peaks = {}
    for name in dict.fromkeys(["adamw", *(options.only[:1] if options.tiny else options.only)]):
        done = subprocess.run([*command, name], capture_output=True, text=True, check=True, env=os.environ | EXACT)
        peaks[name] = int(done.stdout.split()[-1])
    print(f"{weights / 1e6:.0f} MB of weights, torch {torch.__version__}\n")
    print("| optimizer | peak, MB | beyond AdamW, copies of the weights |")
    print("|---|---|---|")
    for name, peak in peaks.items():
        print(f"| {name} | {peak / 1e6:.0f} | {(peak - peaks['adamw']) / weights:.2f} |")


def print_peak(options: argparse.Namespace) -> None:
    """Take steps and print the peak of the memory that is this process's own, in bytes."""
    runner = Runner(options.peak, options)
    for _ in range(options.rounds):
        runner.step()
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
