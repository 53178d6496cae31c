"""The whole example by one command: `make example`, or `python examples/smollm2/run.py -o runs/smollm2`.

Makes the base, the tasks and the experts, then runs what a user would type. Each finished step is kept: run again, it
goes on where it was. With `--tiny` all of it runs in seconds, on the demo's base and a few tokens.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from convert import gguf_file
from tasks import Length, divide, read_texts, write_task, write_texts

from aftermix.checkpoints.formats.gguf import convert_gguf

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "demo"
TEXTS = DEMO / "texts"
DOMAINS = {"ja": Length(18, 9), "zh": Length(18, 9), "math": Length(48, 24)}
AFTERMIX = Path(sys.executable).with_name("aftermix")
TINY_TOKENS = 512
TINY_TRAINING = {"context": 64, "batch_size": 4, "warmup_steps": 1}
TINY_SEARCH = {"evaluate": {"items": {"search": 2, "select": 2, "test": 2}}, "search": {"trials": 2, "top": 1}}


def main() -> None:
    """Run every step that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/smollm2"), help="default: %(default)s")
    parser.add_argument(
        "--tiny",
        nargs="?",
        type=Path,
        const=Path("runs/tiny"),
        metavar="FOLDER",
        help="on the demo's base and a few tokens, to see that it runs; all of it lies in FOLDER (default: runs/tiny)",
    )
    options = parser.parse_args()
    tiny = options.tiny is not None
    output: Path = options.tiny / "smollm2" if tiny else options.output

    make_base(output / "base", tiny=tiny)
    for domain, length in DOMAINS.items():
        write_domain(output, domain, length)
    compose(output, tiny=tiny)


def make_base(folder: Path, *, tiny: bool) -> None:
    """Convert the package's file once."""
    if folder.exists():
        log(f"base: {folder} is there")
        return
    if tiny:
        log("base: the demo's; the real one, 135 M parameters from a GGUF file, is left out")
        shutil.copytree(DEMO / "base", folder)
        return
    log("base: converting SmolLM2-135M-Instruct from GGUF to bfloat16 safetensors (about a minute)")
    convert_gguf(gguf_file(), folder)


def write_domain(output: Path, domain: str, length: Length) -> None:
    """The training text and the task of one domain, apart by document."""
    train, held_out = divide(read_texts(TEXTS / f"{domain}.jsonl.gz"))
    write_task(output / "tasks", domain, held_out, length)
    write_texts(output / "texts" / f"{domain}.jsonl", train)


def compose(output: Path, *, tiny: bool) -> None:
    """What a user does with a base and datasets: train, doctor, plan, search (or go on with a search)."""
    training = place_file("train.yaml", output, shrink_training if tiny else None)
    file = place_file("aftermix.yaml", output, shrink_search if tiny else None)
    run = output / "search"
    run_command = aftermix_here if tiny else aftermix

    run_command("train", training, "-o", output / "experts")
    run_command("doctor", file)
    where: list[str | Path] = ["--resume", run] if (run / "config.yaml").is_file() else ["-o", run]
    if not (run / "best.json").is_file():
        run_command("plan", file)
    run_command("search", file, *where)


def place_file(name: str, output: Path, shrink: Callable[[dict[str, Any]], None] | None) -> Path:
    """The file `name` of the example beside the models, as it stands or made small by `shrink`."""
    placed = output / name
    shutil.copyfile(HERE / name, placed)
    if shrink is not None:
        values = yaml.safe_load(placed.read_text(encoding="utf-8"))
        shrink(values)
        placed.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return placed


def shrink_training(values: dict[str, Any]) -> None:
    """A few tokens an expert; whole weights where peft, which adapters need, is not installed."""
    training = values["train"]
    training |= TINY_TRAINING
    for dataset in training["datasets"].values():
        dataset["tokens"] = TINY_TOKENS
    if importlib.util.find_spec("peft") is None:
        log("peft is not installed, so adapters are left out: whole weights are trained")
        del training["lora"]


def shrink_search(values: dict[str, Any]) -> None:
    """Fewer items and trials."""
    for name, changes in TINY_SEARCH.items():
        values[name] |= changes


def aftermix(*arguments: str | Path) -> None:
    """Show the command and run it; stop with its exit code if it fails."""
    command = ["aftermix", *map(str, arguments)]
    log(f"\n$ {' '.join(command)}")
    done = subprocess.run([AFTERMIX, *command[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def aftermix_here(*arguments: str | Path) -> None:
    """The same in this process: most of a tiny command is its start."""
    from aftermix.cli import cli

    command = [*map(str, arguments)]
    log(f"\n$ aftermix {' '.join(command)}")
    exit_code = cli.main(command, standalone_mode=False)
    if exit_code:
        sys.exit(exit_code)


def log(line: str) -> None:
    """Print at once: the commands in between write to the same place."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
