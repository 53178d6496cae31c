"""The whole example by one command: `make example`, or `python examples/smollm2/run.py -o runs/smollm2`.

Makes the base, the tasks and the experts, then runs what a user would type. Each finished step is kept: run again, it
goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from convert import gguf_file
from experts import make_expert
from tasks import Length, divide, read_texts, write_task, write_texts

from aftermix.checkpoints.formats.gguf import convert_gguf

HERE = Path(__file__).resolve().parent
TEXTS = HERE.parent / "demo" / "texts"
DOMAINS = {"ja": Length(18, 9), "zh": Length(18, 9), "math": Length(48, 24)}
AFTERMIX = Path(sys.executable).with_name("aftermix")


def main() -> None:
    """Run every step that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/smollm2"), help="default: %(default)s")
    output: Path = parser.parse_args().output
    make_base(output / "base")
    for domain, length in DOMAINS.items():
        make_domain(output, domain, length)
    compose(output)


def make_base(folder: Path) -> None:
    """Convert the package's file once."""
    if folder.exists():
        say(f"base: {folder} is there")
        return
    say("base: converting SmolLM2-135M-Instruct from GGUF to bfloat16 safetensors (about a minute)")
    convert_gguf(gguf_file(), folder)


def make_domain(output: Path, domain: str, length: Length) -> None:
    """The training text, the task and the expert of one domain."""
    train, held_out = divide(read_texts(TEXTS / f"{domain}.jsonl.gz"))
    write_task(output / "tasks", domain, held_out, length)
    folder = output / "experts" / domain
    if folder.exists():
        say(f"{domain}: {folder} is there")
        return
    say(f"{domain}: training an adapter, then folding it into {folder}")
    make_expert(output / "base", write_texts(output / "texts" / f"{domain}.jsonl", train), folder)


def compose(output: Path) -> None:
    """What a user does with a base and experts: doctor, plan, search (or go on with a search)."""
    file, run = output / "aftermix.yaml", output / "search"
    shutil.copyfile(HERE / "aftermix.yaml", file)
    aftermix("doctor", file)
    where: list[str | Path] = ["--resume", run] if (run / "config.yaml").is_file() else ["-o", run]
    if not (run / "best.json").is_file():
        aftermix("plan", file)
    aftermix("search", file, *where)


def aftermix(*arguments: str | Path) -> None:
    """Show the command and run it; stop with its exit code if it fails."""
    command = ["aftermix", *map(str, arguments)]
    say(f"\n$ {' '.join(command)}")
    done = subprocess.run([AFTERMIX, *command[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def say(line: str) -> None:
    """Print at once: the commands in between write to the same place."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
