"""The three hot paths on an accelerator: combine into a live model, score with shared beginnings, a merge-aware step.

    python benchmarks/gpu.py [--parameters 0.3e9] [--vectors 4] [--rounds 7] [--device cuda]

It needs torch, transformers, safetensors and NumPy alone, and takes under six minutes on a GPU of the last years:

- combine: prepared vectors (float32) and base (bfloat16) that lie on the device become the live parameters, against one
  fused pass over the same bytes, a kernel that PyTorch's compiler makes for exactly this sum. The operations of the
  product are run alone, and where pydantic and psutil are installed, as `pip install aftermix` does, its own path.
- scoring: log-likelihoods of requests with shared beginnings, by the plan over their prefix tree and by one sequence a
  request, of the same model: seconds, positions, and the largest difference.
- step: a whole training step (forward, backward, update) with merge-aware noise, against AdamW's.

Every round runs all ways of a comparison, every second round in reverse order; reported are medians, and the median
over rounds of each ratio with its quartiles. The device is waited for before and after each.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tiny import parse_options
from transformers import LlamaConfig, LlamaForCausalLM

from aftermix.evaluation.engines.batches import build_scoring_plan, score_plan
from aftermix.evaluation.engines.tree_plan import build_tree_plan
from aftermix.evaluation.engines.tree_scoring import TreeScorer
from aftermix.training.optimizers import MergeAware

WEIGHT = 0.25
VOCABULARY = 4096
LAYER = 12
"""Parameters of a layer of a Llama, in squares of its width, about."""
CHUNK_ELEMENTS = 1 << 25
"""As the product combines at once."""
NEEDED = ("pydantic", "psutil")
TINY = {"parameters": 2e5, "vectors": 2, "rounds": 2, "items": 2, "beginning": 16, "context": 16, "batch": 2}
Way = Callable[[], None]


def make_config(parameters: float) -> LlamaConfig:
    """A tied Llama of about so many parameters, four or more times as long as a step of its width is wide."""
    layers = 24 if parameters > 1e8 else 2
    width = max(64, 64 * round(math.sqrt(parameters / (LAYER * layers)) / 64))
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def make_model(options: argparse.Namespace, *, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(make_config(options.parameters)).to(options.device, dtype)


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(ways: Mapping[str, Way], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name in ways if turn % 2 else reversed(ways):
            wait(options.device)
            started = time.perf_counter()
            ways[name]()
            wait(options.device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def tabulate(title: str, seconds: Mapping[str, Sequence[float]], notes: Mapping[str, str]) -> None:
    """Print a table whose first way is what the others are held against."""
    first = next(iter(seconds))
    print(f"\n{title}\n\n| way | seconds | to {first} | |\n|---|---|---|---|")
    for name, own in seconds.items():
        ratios = np.quantile(np.array(own) / np.array(seconds[first]), [0.25, 0.5, 0.75])
        told = f"{ratios[1]:.3f} [{ratios[0]:.3f}, {ratios[2]:.3f}]"
        print(f"| {name} | {statistics.median(own):.5f} | {told} | {notes.get(name, '')} |", flush=True)


def combine(options: argparse.Namespace) -> None:
    """Live parameters from prepared vectors, against one fused pass."""
    model = make_model(options, dtype=torch.bfloat16)
    live = {name: parameter.data for name, parameter in model.named_parameters()}
    elements = sum(tensor.numel() for tensor in live.values())
    draw = torch.Generator(device=options.device).manual_seed(1)
    base = {name: tensor.clone().view(-1) for name, tensor in live.items()}
    kept = {
        name: {
            f"v{number}": torch.randn(tensor.numel(), generator=draw, device=options.device) * 1e-3
            for number in range(options.vectors)
        }
        for name, tensor in live.items()
    }
    ways = {"one fused pass": fuse(base, kept, live, options)}
    ways["operations of the product"] = combine_plainly(base, kept, live)
    with tempfile.TemporaryDirectory(prefix="aftermix-gpu-") as folder:
        if all(is_installed(name) for name in NEEDED):
            ways["the product"] = combine_by_product(base, kept, live, options, Path(folder))
        agree(ways, live)
        seconds = measure(ways, options)
    moved = elements * (2 + 4 * options.vectors + 2) / 1e9
    notes = {name: f"{moved / statistics.median(times):,.0f} GB/s" for name, times in seconds.items()}
    tabulate(f"Combine: {elements / 1e6:,.1f} M parameters, {options.vectors} vectors", seconds, notes)


def is_installed(name: str) -> bool:
    """Tell whether a package is there, and not hidden."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        return False


def agree(ways: Mapping[str, Way], live: Mapping[str, torch.Tensor]) -> None:
    """Raise :class:`RuntimeError` where a way gives parameters that differ by more than a rounding from the first's."""
    first: dict[str, torch.Tensor] = {}
    for label, way in ways.items():
        for tensor in live.values():
            tensor.zero_()
        way()
        first = first or {name: tensor.float().clone() for name, tensor in live.items()}
        for name, tensor in live.items():
            if not torch.allclose(tensor.float(), first[name], rtol=2**-7, atol=1e-6):
                raise RuntimeError(f"{name}: {label} is not {next(iter(ways))}")


def fuse(
    base: Mapping[str, torch.Tensor],
    kept: Mapping[str, Mapping[str, torch.Tensor]],
    live: Mapping[str, torch.Tensor],
    options: argparse.Namespace,
) -> Way:
    def kernel(start: torch.Tensor, out: torch.Tensor, parts: list[torch.Tensor]) -> None:
        total = start.float()
        for part in parts:
            total = total + part * WEIGHT
        out.copy_(total)

    backend = "inductor" if options.device.startswith("cuda") else "eager"
    compiled = torch.compile(kernel, dynamic=True, backend=backend)
    operands = [(base[name], live[name].view(-1), list(kept[name].values())) for name in live]

    def run() -> None:
        for operand in operands:
            compiled(*operand)

    return run


def combine_plainly(
    base: Mapping[str, torch.Tensor],
    kept: Mapping[str, Mapping[str, torch.Tensor]],
    live: Mapping[str, torch.Tensor],
) -> Way:
    """The operations of `aftermix.merging.prepared_gpu`, in their order."""

    def run() -> None:
        for name, target in live.items():
            result = torch.empty_like(base[name])
            for start in range(0, result.numel(), CHUNK_ELEMENTS):
                part = slice(start, start + CHUNK_ELEMENTS)
                first, *others = (tensor[part] for tensor in kept[name].values())
                total = first * WEIGHT
                for tensor in others:
                    total.add_(tensor, alpha=WEIGHT)
                torch.add(base[name][part].float(), total, out=total)
                result[part] = total.to(result.dtype)
                if not bool(torch.isfinite(result[part]).all()):
                    raise RuntimeError(f"{name} is not finite")
            target.view(-1).copy_(result)

    return run


def combine_by_product(
    base: Mapping[str, torch.Tensor],
    kept: Mapping[str, Mapping[str, torch.Tensor]],
    live: Mapping[str, torch.Tensor],
    options: argparse.Namespace,
    folder: Path,
) -> Way:
    """`ResidentVectors` over these tensors: the merger is of a base on disk, whose header alone is read."""
    from aftermix.checkpoints.pool import open_pool
    from aftermix.config import Config, MergeConfig, VectorConfig
    from aftermix.merging.merge import Merger
    from aftermix.merging.prepared import PreparedVectors
    from aftermix.merging.prepared_gpu import ResidentVectors
    from aftermix.merging.recipe import MergeRecipe

    save_file({name: tensor.cpu() for name, tensor in live.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(make_config(options.parameters).to_dict(), default=str))
    names = [f"v{number}" for number in range(options.vectors)]
    config = Config(
        base=str(folder),
        vectors={name: VectorConfig(model=str(folder), weight=WEIGHT) for name in names},
        merge=MergeConfig(method="task_arithmetic"),
    )
    merger = Merger.build(open_pool(config), MergeRecipe.from_config(config.merge))
    moved = tuple(info for info in merger.pool.layout if merger.moves(info))
    prepared = PreparedVectors(merger, moved, {name: dict(parts) for name, parts in kept.items()}, {})
    vectors = ResidentVectors(prepared, torch.device(options.device), dict(base), prepared.kept)

    def run() -> None:
        for name, tensor in vectors.stream_merged(dict.fromkeys(names, WEIGHT)):
            live[name].copy_(tensor)

    return run


def score(options: argparse.Namespace) -> None:
    """Requests with a beginning of all and one of each item, by their tree and one by one."""
    model = make_model(options, dtype=torch.bfloat16 if options.device.startswith("cuda") else torch.float32).eval()
    draw = np.random.default_rng(0)

    def write(length: int) -> list[int]:
        return [int(token) for token in draw.integers(0, VOCABULARY, length)]

    beginning = write(options.beginning)
    pairs = []
    for _ in range(options.items):
        question = [*beginning, *write(options.beginning // 8)]
        pairs += [(question, write(8)) for _ in range(4)]

    device, longest = torch.device(options.device), options.beginning * 2 + 16
    tree = build_tree_plan(pairs, batch_size=options.batch, max_length=longest, device=device)
    plain = build_scoring_plan(pairs, batch_size=options.batch, max_length=longest, device=device)
    scorer, found = TreeScorer(model, keeps_logits=True), {}

    def compute_logits(tokens_BT: torch.Tensor, positions_P: torch.Tensor) -> torch.Tensor:
        logits_BPV: torch.Tensor = model(tokens_BT, logits_to_keep=positions_P).logits
        return logits_BPV

    def run_tree() -> None:
        with torch.inference_mode():
            found["tree"] = scorer.score(tree)

    def run_plain() -> None:
        with torch.inference_mode():
            found["plain"] = score_plan(plain, compute_logits)

    seconds = measure({"one sequence a request": run_plain, "shared beginnings": run_tree}, options)
    difference = max(abs(ours[0] - theirs[0]) for ours, theirs in zip(found["tree"], found["plain"], strict=True))
    notes = {
        "one sequence a request": f"{plain.positions:,} positions",
        "shared beginnings": f"{tree.positions:,} positions, differs by {difference:.2g} nats at most",
    }
    tabulate(f"Scoring: {len(pairs)} requests, a beginning of {options.beginning} tokens", seconds, notes)


def step(options: argparse.Namespace) -> None:
    """Whole training steps in float32."""
    ways: dict[str, Way] = {}
    ids = torch.randint(0, VOCABULARY, (options.batch, options.context), device=options.device)
    for name, noise in (("adamw", None), ("merge_aware", "fresh"), ("merge_aware, noise table", "table")):
        model = make_model(options, dtype=torch.float32)
        plain = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
        ways[name] = build_step(model, MergeAware(plain, noise=noise) if noise else plain, ids)
    seconds = measure(ways, options)
    tabulate(f"Step: {options.batch} x {options.context} tokens", seconds, {})


def build_step(model: Any, optimizer: Any, ids: torch.Tensor) -> Way:
    def compute_gradient() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()

    def run() -> None:
        if isinstance(optimizer, MergeAware):
            with optimizer.perturbed():
                compute_gradient()
        else:
            compute_gradient()
        optimizer.step()

    return run


def describe_machine(device: str) -> str:
    """The date, the device and the versions."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{datetime.now(tz=UTC):%Y-%m-%d}, {name}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parameters", type=float, default=0.3e9)
    parser.add_argument("--vectors", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--items", type=int, default=64, help="of the scoring, four requests each")
    parser.add_argument("--beginning", type=int, default=512, help="tokens that all requests share")
    parser.add_argument("--context", type=int, default=1024, help="tokens of a sequence of a step")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=["combine", "score", "step"], default=["combine", "score", "step"])
    options = parse_options(parser, lambda _: TINY | {"device": "cpu"})

    print(describe_machine(options.device), flush=True)
    for name in options.only:
        {"combine": combine, "score": score, "step": step}[name](options)
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
