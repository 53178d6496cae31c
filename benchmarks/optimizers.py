"""The cost of a merge-aware step beside AdamW's, SAM's and ASAM's: whole steps of a real Llama, and memory.

    python benchmarks/optimizers.py [--rounds 7] [--parameters 5] [--sequences 8] [--context 128] [--device cpu]

A step is forward, backward, clipping and update. Every round takes one step with each optimizer, every second round in
reverse order, so that a drifting machine favours none; each optimizer has a model of its own. Reported are medians, and
the median over rounds of the ratio to AdamW's step of that round. Budget: at most 1.05 for merge_aware.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aftermix.training import ASAM, SAM, MergeAware

OPTIMIZERS: dict[str, Callable[[torch.optim.Optimizer], torch.optim.Optimizer]] = {
    "adamw": lambda base: base,
    "merge_aware": MergeAware,
    "merge_aware, gaussian": lambda base: MergeAware(base, distribution="gaussian"),
    "merge_aware, noise table": lambda base: MergeAware(base, noise="table"),
    "merge_aware, regenerate": lambda base: MergeAware(base, memory="regenerate"),
    "merge_aware, own vector": lambda base: MergeAware(base, offset="own_vector"),
    "sam": SAM,
    "asam": ASAM,
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
        started = time.perf_counter()
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
        return time.perf_counter() - started

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
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parameters", type=int, default=5, choices=[1, 5, 14], help="millions")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    options = parser.parse_args()
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
    print("| optimizer | ms a step | x AdamW, median | lowest to highest | extra copies of the weights |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [ours / plain for ours, plain in zip(times, seconds["adamw"], strict=True)]
        print(
            f"| {name} | {1000 * statistics.median(times):.0f} | {statistics.median(ratios):.3f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {runners[name].kept():.2f} |"
        )


if __name__ == "__main__":
    main()
