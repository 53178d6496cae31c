"""Forward passes that are watched, against the same passes plain.

    python benchmarks/calibrate.py --hidden 512 --layers 8

Both run the same live model over the same batches, once a round in turns, and both compute the output head for the last
position only. A third line is a plain forward pass with the head at every position, which a caller would get who does
not know what is wanted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from measure import machine
from tiny import parse_options
from transformers import AutoConfig, AutoModelForCausalLM

from aftermix.saliency.observer import LayerObserver

KINDS = {
    "llama": {},
    "gpt2": {},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
}
TINY = {"hidden": 64, "layers": 1, "vocabulary": 320, "batch": 1, "context": 16, "rounds": 1}


def model_of(kind: str, *, hidden: int, layers: int, vocabulary: int) -> torch.nn.Module:
    shape = {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
    }
    if kind == "gpt2":
        shape = {"n_embd": hidden, "n_layer": layers, "n_head": hidden // 64}
    config = AutoConfig.for_model(
        kind, vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, pad_token_id=1, **shape, **KINDS[kind]
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parse_options(parser, lambda _: TINY)
    print(f"{machine()}, {torch.get_num_threads()} threads, hidden {arguments.hidden}, {arguments.layers} layers,")
    print(f"batches of {arguments.batch} x {arguments.context} tokens, float32.\n")
    print("| model | plain s | watched s | median ratio | plain with a whole head s |\n|---|---|---|---|---|")
    for kind in KINDS:
        model = model_of(kind, hidden=arguments.hidden, layers=arguments.layers, vocabulary=arguments.vocabulary)
        tokens = torch.randint(2, arguments.vocabulary, (arguments.batch, arguments.context))
        print(line(kind, model, tokens, rounds=arguments.rounds))


def line(kind: str, model: torch.nn.Module, tokens: torch.Tensor, *, rounds: int) -> str:
    observer = LayerObserver("second_moment")
    observer.watch(model)

    def whole_head() -> None:
        model(tokens, use_cache=False)

    def plain() -> None:
        model(tokens, use_cache=False, logits_to_keep=1)

    def watched() -> None:
        with observer.shorten_head(model), observer:
            model(tokens, use_cache=False)

    passes: dict[str, Callable[[], None]] = {"plain": plain, "watched": watched, "whole head": whole_head}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    with torch.no_grad():
        for number in range(rounds + 1):
            for name in passes if number % 2 else reversed(passes):
                started = time.perf_counter()
                passes[name]()
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds["watched"], seconds["plain"], strict=True))
    plain_s, watched_s, whole_s = (statistics.median(seconds[name]) for name in passes)
    return f"| {kind} | {plain_s:.3f} | {watched_s:.3f} | {ratio:.3f} | {whole_s:.3f} |"


if __name__ == "__main__":
    main()
