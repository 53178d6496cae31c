"""Merge to disk against plain file copies of the same bytes, and against mergekit where it is named.

    python benchmarks/merge.py --folder /tmp/bench --parameters 0.3e9 --mergekit PATH/bin/mergekit-yaml

Prints a Markdown table: medians over rounds, and ratios to the plain copy and to mergekit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import yaml
from measure import Cost, machine, median, run, side_by_side

EXPERTS = 4
METHODS = {
    "linear": {},
    "task_arithmetic": {},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "ties": {"density": 0.5},
}
COPY = """
import os, sys
buffer = bytearray(1 << 23)
for name in sys.argv[2:]:
    with open(name, "rb", buffering=0) as source:
        while source.readinto(buffer):
            pass
source, target = open(sys.argv[2], "rb", buffering=0), open(sys.argv[1], "wb", buffering=0)
left = sum(os.path.getsize(name) for name in sys.argv[2:]) // FACTOR
while left > 0:
    left -= target.write(memoryview(buffer)[: min(left, len(buffer))])
os.fsync(target.fileno())
"""


def make_models(folder: Path, parameters: float) -> list[Path]:
    """A sharded bfloat16 Llama base of about `parameters` and experts at a small distance; kept for later runs."""
    folders = [folder / "base", *(folder / f"e{number}" for number in range(EXPERTS))]
    if all((path / "config.json").exists() for path in folders):
        return folders
    from transformers import LlamaConfig, LlamaForCausalLM

    width = 1024 if parameters < 0.6e9 else 2048
    vocabulary = 32000
    per_layer = 4 * width * width + 3 * width * (11 * width // 4)
    layers = max(1, round((parameters - 2 * vocabulary * width) / per_layer))
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, path in enumerate(folders):
        noise = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                moved = torch.randn(parameter.shape, generator=noise) * 0.003 if number else torch.zeros(1)
                parameter.copy_(start[name].float() + moved)
        model.save_pretrained(path, max_shard_size="200MB")
    return folders


def weights_of(folders: list[Path]) -> list[str]:
    return [str(file) for path in folders for file in sorted(path.glob("*.safetensors"))]


def ours(folder: Path, folders: list[Path], method: str) -> Cost:
    vectors = {path.name: {"model": str(path), "weight": 0.25} for path in folders[1:]}
    values = {"base": str(folders[0]), "vectors": vectors, "merge": {"method": method, **METHODS[method]}}
    (folder / "ours.yaml").write_text(json.dumps(values))
    shutil.rmtree(folder / "out", ignore_errors=True)
    return run(
        [str(Path(sys.executable).with_name("aftermix")), "merge", str(folder / "ours.yaml"), "-o", str(folder / "out")]
    )


def theirs(folder: Path, folders: list[Path], method: str, mergekit: str, threads: int) -> Cost:
    models = [{"model": str(path), "parameters": {"weight": 0.25, **METHODS[method]}} for path in folders[1:]]
    values: dict[str, object] = {"merge_method": method, "models": models, "dtype": "bfloat16"}
    if method != "linear":
        values["base_model"] = str(folders[0])
    (folder / "theirs.yaml").write_text(yaml.safe_dump(values))
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [mergekit, str(folder / "theirs.yaml"), str(folder / "out")]
    return run([*command, "--no-copy-tokenizer", "--quiet", "-j", str(threads)], env={"HF_HUB_OFFLINE": "1"})


def copy(folder: Path, folders: list[Path]) -> Cost:
    code = COPY.replace("FACTOR", str(len(folders)))
    shutil.rmtree(folder / "out", ignore_errors=True)
    return run([sys.executable, "-c", code, str(folder / "copied"), *weights_of(folders)])


def table(costs: dict[str, list[Cost]], *, threads: int) -> str:
    plain = median(costs["plain copy"])
    lines = [
        f"{machine()}, {threads} threads.",
        "",
        "| what | wall s | CPU s | peak private MB | x plain copy | x faster than mergekit |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in costs.items():
        cost = median(runs)
        peer = costs.get(f"mergekit {name}")
        faster = f"{median(peer).wall_s / cost.wall_s:.1f}" if peer else ""
        lines.append(
            f"| {name} | {cost.wall_s:.2f} | {cost.cpu_s:.2f} | {cost.private_mb:.0f} "
            f"| {cost.wall_s / plain.wall_s:.2f} | {faster} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parameters", type=float, default=0.3e9)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit", help="mergekit-yaml of the environment that holds mergekit")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    folders = make_models(arguments.folder, arguments.parameters)
    threads = torch.get_num_threads()
    commands: dict[str, Callable[[], Cost]] = {"plain copy": partial(copy, arguments.folder, folders)}
    for method in arguments.methods:
        commands[method] = partial(ours, arguments.folder, folders, method)
        if arguments.mergekit:
            commands[f"mergekit {method}"] = partial(
                theirs, arguments.folder, folders, method, arguments.mergekit, threads
            )
    costs = side_by_side(commands, rounds=arguments.rounds, say=lambda line: print(line, file=sys.stderr))
    print(table(costs, threads=threads))


if __name__ == "__main__":
    main()
