"""Merge to disk against plain file copies of the same bytes, and against mergekit where it is named.

    python benchmarks/merge.py --folder /tmp/bench --parameters 0.3e9 --mergekit PATH/bin/mergekit-yaml
    python benchmarks/merge.py --folder /tmp/bench --cold                     # inputs not in the system's cache
    python benchmarks/merge.py --folder /tmp/bench --grow                     # 1 to 8 experts, 0.1 to 1.1 B
    python benchmarks/merge.py --folder /tmp/bench --exclusive                # OBIM and its halves against TIES

Prints a Markdown table: medians over rounds, and ratios to the plain copy and to mergekit. The plain copy reads the
bytes of all inputs once and writes as many as one model has. Whole commands are timed, imports included; `start` is
`aftermix merge` of a model of a few kilobytes, the part that does not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import yaml
from measure import Cost, machine, median, run, side_by_side
from tiny import parse_options

from aftermix.checkpoints.reader import open_checkpoint
from aftermix.saliency.naming import ChannelStatistic
from aftermix.saliency.storage import DataNote, StatisticsNote, note_weights, save_statistics

METHODS: dict[str, dict[str, float]] = {
    "linear": {},
    "task_arithmetic": {},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "ties": {"density": 0.5},
}
SHARED: dict[str, dict[str, float]] = {
    "ties": {"density": 0.25},
    "ties_obm": {"density": 0.25},
    "ties_im": {"density": 0.25},
    "obim": {"density": 0.25},
}
"""What shares positions out, against TIES at the same density."""
TINY = {"parameters": 1e4, "experts": 2, "methods": [], "rounds": 1}
"""The tables of methods are left with the plain copy and the start; the one of shared positions has two merges."""
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


def make_models(folder: Path, parameters: float, experts: int = 4) -> list[Path]:
    """A sharded bfloat16 Llama base of about `parameters` and experts at a small distance; kept for later runs."""
    folder = folder / f"{parameters / 1e9:g}B"
    folders = [folder / "base", *(folder / f"e{number}" for number in range(1, experts + 1))]
    if all((path / "config.json").exists() for path in folders):
        return folders
    from transformers import LlamaConfig, LlamaForCausalLM

    width = 16 if parameters < 1e7 else 1024 if parameters < 0.6e9 else 2048
    vocabulary = 320 if parameters < 1e7 else 32000
    torch.set_num_threads(os.cpu_count() or 1)
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
        if (path / "config.json").exists():
            continue
        noise = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                moved = torch.randn(parameter.shape, generator=noise) * 0.003 if number else torch.zeros(1)
                parameter.copy_(start[name].float() + moved)
        model.save_pretrained(path, max_shard_size="200MB")
    return folders


def weights_of(folders: list[Path]) -> list[str]:
    return [str(file) for path in folders for file in sorted(path.glob("*.safetensors"))]


def make_statistics(folder: Path, folders: list[Path]) -> Path:
    """Mean squares of seeded noise for every matrix but the embeddings: what they hold costs nothing, reading does."""
    statistics = folder / "statistics"
    shutil.rmtree(statistics, ignore_errors=True)
    statistics.mkdir()
    for path in folders[1:]:
        model = open_checkpoint(path)
        noise = torch.Generator().manual_seed(0)
        matrices = {
            name: ChannelStatistic(torch.rand(info.shape[1], generator=noise), (1,), 1)
            for name, info in model.tensors.items()
            if len(info.shape) == 2 and "embed" not in name
        }
        data = DataNote(source="noise", sha256="", samples_sha256="", texts=1, samples=1, context=1, tokens=1)
        note = StatisticsNote(
            format="aftermix statistics",
            version=1,
            vector=path.name,
            model=str(path),
            data=data,
            options={},
            uncovered=(),
            alias={},
            weights=note_weights(matrices, model),
            versions={},
        )
        save_statistics(statistics, note, matrices)
    return statistics


def write_config(
    folder: Path, folders: list[Path], method: str, options: Mapping[str, object], statistics: Path | None = None
) -> Path:
    """The file of a merge of all models but the first, which is the base, at equal weights."""
    vectors = {path.name: {"model": str(path), "weight": 0.25} for path in folders[1:]}
    merge = {"method": method, **options} | ({"statistics": str(statistics)} if statistics else {})
    values = {"base": str(folders[0]), "vectors": vectors, "merge": merge}
    (folder / "ours.yaml").write_text(json.dumps(values))
    return folder / "ours.yaml"


def ours(
    folder: Path, folders: list[Path], method: str, options: Mapping[str, object], statistics: Path | None = None
) -> Cost:
    config = write_config(folder, folders, method, options, statistics)
    shutil.rmtree(folder / "out", ignore_errors=True)
    return run([str(Path(sys.executable).with_name("aftermix")), "merge", str(config), "-o", str(folder / "out")])


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
    (folder / "copied").unlink(missing_ok=True)
    return run([sys.executable, "-c", code, str(folder / "copied"), *weights_of(folders)])


def forgotten(folders: list[Path], command: Callable[[], Cost]) -> Cost:
    """`command` after the system has dropped the models from its cache."""
    os.sync()
    for file in weights_of(folders):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return command()


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


def compared(arguments: argparse.Namespace) -> str:
    """Every method against the plain copy, and against mergekit."""
    folder, threads = arguments.folder, os.cpu_count() or 1
    folders = make_models(folder, arguments.parameters, arguments.experts)
    small = make_models(folder, 1e4, 1)
    commands: dict[str, Callable[[], Cost]] = {
        "plain copy": partial(copy, folder, folders),
        "start": partial(ours, folder, small, "linear", {}),
    }
    for method in arguments.methods:
        commands[method] = partial(ours, folder, folders, method, METHODS[method])
        if arguments.mergekit:
            commands[f"mergekit {method}"] = partial(theirs, folder, folders, method, arguments.mergekit, threads)
    if arguments.cold:
        commands = {name: partial(forgotten, folders, command) for name, command in commands.items()}
    return table(side_by_side(commands, rounds=arguments.rounds, log=log), threads=threads)


def grown(arguments: argparse.Namespace) -> str:
    """Time and memory as the number of experts and the size of the models grow."""
    sizes = [(0.3e9, experts) for experts in (1, 2, 4, 8)] + [(parameters, 4) for parameters in (0.1e9, 1.1e9)]
    if arguments.tiny:
        sizes = [(arguments.parameters, arguments.experts)]
    commands: dict[str, Callable[[], Cost]] = {}
    for parameters, experts in sizes:
        folders = make_models(arguments.folder, parameters, experts)
        place = f"{parameters / 1e9:.1f} B, {experts} experts"
        commands[f"{place}: plain copy"] = partial(copy, arguments.folder, folders)
        for method in arguments.methods:
            commands[f"{place}: {method}"] = partial(ours, arguments.folder, folders, method, METHODS[method])
    costs = {name: median(runs) for name, runs in side_by_side(commands, rounds=arguments.rounds, log=log).items()}
    rows = [f"| {name} | {c.wall_s:.2f} | {c.cpu_s:.2f} | {c.private_mb:.0f} |" for name, c in costs.items()]
    head = [f"{machine()}, {os.cpu_count()} threads.", "", "| what | wall s | CPU s | peak private MB |"]
    return "\n".join([*head, "|---|---|---|---|", *rows])


def shared_out(arguments: argparse.Namespace) -> str:
    """OBIM and its halves, each entry's vector chosen exactly, against TIES at the same density."""
    folder, threads = arguments.folder, os.cpu_count() or 1
    folders = make_models(folder, arguments.parameters, arguments.experts)
    statistics = make_statistics(folder, folders)
    commands: dict[str, Callable[[], Cost]] = {
        method: partial(ours, folder, folders, method, options, statistics if "ob" in method else None)
        for method, options in SHARED.items()
        if not arguments.tiny or method in ("ties", "obim")
    }
    costs = {name: median(runs) for name, runs in side_by_side(commands, rounds=arguments.rounds, log=log).items()}
    plain = costs["ties"]
    rows = [
        f"| {name} | {cost.wall_s:.2f} | {cost.cpu_s:.2f} | {cost.private_mb:.0f} "
        f"| {cost.wall_s / plain.wall_s:.2f} | {cost.cpu_s / plain.cpu_s:.2f} |"
        for name, cost in costs.items()
    ]
    head = [f"{machine()}, {threads} threads, density 0.25.", ""]
    head += ["| method | wall s | CPU s | peak private MB | wall x TIES | CPU x TIES |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the models are made")
    parser.add_argument("--parameters", type=float, default=0.3e9)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit", help="mergekit-yaml of the environment that holds mergekit")
    parser.add_argument("--cold", action="store_true", help="drop the models from the system's cache before each run")
    parser.add_argument("--grow", action="store_true", help="1 to 8 experts, 0.1 to 1.1 B parameters")
    parser.add_argument("--exclusive", action="store_true", help="OBIM, its halves and TIES at one density")
    arguments = parse_options(parser, lambda folder: {**TINY, "folder": folder / "models"})
    if arguments.folder is None:
        parser.error("--folder is missing: where shall the models be made?")

    arguments.folder.mkdir(parents=True, exist_ok=True)
    tables = [grown] if arguments.grow else [shared_out] if arguments.exclusive else [compared]
    for make_table in [compared, grown, shared_out] if arguments.tiny else tables:
        print(make_table(arguments))


if __name__ == "__main__":
    main()
