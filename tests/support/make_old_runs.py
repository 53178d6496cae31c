"""Make the runs in tests/data/runs-0a1294b, with the code of commit 0a1294b: `python make_old_runs.py NEW_FOLDER`.

Run it at that commit only. Later code reads these runs; it must never have written them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PLACE = "/OLD-RUNS"
"""Stands in every text file for the folder that holds the runs; whoever copies them puts its own path there."""
VOCABULARY = 64
CONTEXT = 64
EXPERTS = "abcd"
TOKENS = {"b": 1000, "c": 3000, "d": 2000}
QUESTIONS = {"colours": "what colour is", "numbers": "how many are"}
ITEMS = 30
EVALUATE = {
    "tasks": list(QUESTIONS),
    "include_path": "tasks",
    "items": {"search": 10, "select": 10},
    "threads": 1,
    "device": "cpu",
}
TRAIN = {
    "context": 32,
    "batch_size": 4,
    "learning_rate": 1.0e-3,
    "schedule": "constant",
    "device": "cpu",
    "threads": 1,
    "datasets": {name: {"data": f"{name}.jsonl", "tokens": 128} for name in ("b", "c")},
}

KILLED = """
import os, signal, sys

real_sync, left = os.fsync, int(sys.argv.pop(1))

def sync(handle):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    real_sync(handle)

os.fsync = sync
from aftermix.cli import main
main()
"""


def make(folder: Path) -> None:
    """World, runs as they ended, runs as they were killed, and what each gives when it goes on."""
    world = folder / "world"
    write_models(world)
    write_tasks(world / "tasks")
    write_data(world)
    write_files(world)

    aftermix("search", world / "search-6.yaml", "-o", folder / "search")
    aftermix("mixture", world / "mixture.yaml", "-o", folder / "mixture", "--verify", 3)
    aftermix("mixture", world / "tree.yaml", "-o", folder / "tree")

    # Each dies while a trial is written: its items, or its line in the journal.
    killed = folder / "killed"
    kill(11, "search", world / "search-6.yaml", "-o", killed / "search")
    kill(14, "mixture", world / "mixture.yaml", "-o", killed / "mixture")
    kill(33, "mixture", world / "tree.yaml", "-o", killed / "tree")

    write_expected(folder)
    put_placeholder(folder)
    leave_out(folder)


def aftermix(*arguments: object) -> None:
    """Run the command line; it must end well."""
    subprocess.run([sys.executable, "-m", "aftermix", *map(str, arguments)], check=True)


def kill(sync: int, *arguments: object) -> None:
    """Run the command line in a process that dies at its `sync`-th `fsync`."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(sync), *map(str, arguments)], check=False)
    if done.returncode != -9:
        raise SystemExit(f"expected a killed process, found exit code {done.returncode}")


def write_models(world: Path) -> None:
    """A Llama base of two layers and experts at a small random distance from it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(world / "base")
    save_tokenizer(world / "base")

    for number, name in enumerate(EXPERTS, 1):
        expert = LlamaForCausalLM.from_pretrained(world / "base", dtype=torch.float32)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        expert.to(torch.bfloat16).save_pretrained(world / name)
        if name == "a":  # the instruction model, whose tokenizer the result has
            save_tokenizer(world / name)


def save_tokenizer(folder: Path) -> None:
    """One token a character, so that its file is small."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = "abcdefghijklmnopqrstuvwxyz0123456789 .,:?!'\"-\nACQW"
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)


def write_tasks(folder: Path) -> None:
    """Two multiple-choice tasks of random letters."""
    folder.mkdir()
    for name, question in QUESTIONS.items():
        draw = random.Random(name)
        rows = [
            {
                "question": f"{question} thing {number}?",
                "choices": ["".join(draw.choices("abcdefghij", k=4)) for _ in range(3)],
                "gold": draw.randrange(3),
            }
            for number in range(ITEMS)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(
            f"""task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
        )


def write_data(world: Path) -> None:
    """Text of the two domains of the mixture, for the training that verifies it."""
    for domain, text in (("b", "the sum of the numbers is even "), ("c", "one of these is the answer ")):
        rows = [json.dumps({"text": text * (2 + number % 3)}) + "\n" for number in range(12)]
        (world / f"{domain}.jsonl").write_text("".join(rows))


def write_files(world: Path) -> None:
    """The file of each run, and that with which a finished one goes on."""
    three = {
        "a": {"model": "a", "role": "instruction"},
        "b": {"model": "b", "range": [-0.5, 1.0], "tokens": 1000},
        "c": {"model": "c"},
    }
    search = {
        "base": "base",
        "vectors": three,
        "merge": {"method": "dare_ties"},
        "evaluate": EVALUATE,
        "search": {"startup": 4, "top": 2, "over": {"density": {"low": 0.2, "high": 0.8}}},
    }
    for trials in (6, 8):
        write_yaml(world / f"search-{trials}.yaml", search | {"search": {"trials": trials, **search["search"]}})

    instruction = {"model": "a", "role": "instruction", "weight": 0.5}
    domains = {name: {"model": name, "tokens": count} for name, count in TOKENS.items()}
    two = {name: domains[name] for name in ("b", "c")}
    mixture = {"points": 8, "repeats": 2, "verify": 1, "priors": {"ours": {"b": 0.7, "c": 0.3}}}
    begun = {"base": "base", "vectors": {"a": instruction, **two}, "evaluate": EVALUATE, "train": TRAIN}
    write_yaml(world / "mixture.yaml", begun | {"mixture": mixture})
    write_yaml(world / "mixture-further.yaml", begun | {"mixture": mixture | {"verify": 3}})

    tree = {
        "points": 7,
        "repeats": 1,
        "verify": 1,
        "tree": {"left": ["b", "c"], "d": None},
        "bounds": {"left": [0.2, 0.8]},
        "capabilities": {"both": list(QUESTIONS)},
    }
    begun = {"base": "base", "vectors": {"a": instruction, **domains}, "evaluate": EVALUATE}
    write_yaml(world / "tree.yaml", begun | {"mixture": tree})
    write_yaml(world / "tree-further.yaml", begun | {"mixture": tree | {"experts": True}})


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """JSON, which is YAML."""
    path.write_text(json.dumps(values) + "\n")


def write_expected(folder: Path) -> None:
    """What the finished runs give when they go on with the longer files, and that the killed ones end as those did."""
    again = folder.with_name(folder.name + "-going-on")
    moved = {name: again / name for name in ("search", "mixture", "tree")}
    for name, run in moved.items():
        shutil.copytree(folder / name, run)
        shutil.copytree(folder / "killed" / name, again / "killed" / name)
    world = folder / "world"
    aftermix("search", world / "search-8.yaml", "--resume", moved["search"])
    aftermix("mixture", world / "mixture-further.yaml", "--resume", moved["mixture"])
    aftermix("mixture", world / "tree-further.yaml", "--resume", moved["tree"])
    expected = {name: result(run) for name, run in moved.items()}
    expected["search"]["trials"] = points(moved["search"] / "trials.jsonl")[6:]
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")

    for name in moved:
        aftermix("search" if name == "search" else "mixture", "--resume", again / "killed" / name)
        if outcome(again / "killed" / name) != outcome(folder / name):
            raise SystemExit(f"the killed {name} ends otherwise than the one that was left alone")
    shutil.rmtree(again)


def outcome(run: Path) -> dict[str, Any]:
    """The result of a run and every point that it measured, by the journal that holds it."""
    journals = sorted(run.rglob("trials.jsonl"))
    return {"best": result(run), "trials": {str(path.relative_to(run)): points(path) for path in journals}}


def result(run: Path) -> dict[str, Any]:
    """What `best.json` says of the winner."""
    best = json.loads((run / "best.json").read_text())
    return {key: best[key] for key in ("winner", "weights", "ratios", "select", "test")}


def points(journal: Path) -> list[dict[str, Any]]:
    """The lines of a journal without their seconds."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def leave_out(folder: Path) -> None:
    """Remove what is large and read by nothing: reports, which `report` makes anew, and trained models but for the
    record of the first.
    """
    for report in folder.rglob("report.html"):
        report.unlink()
    first, *others = sorted(folder.glob("mixture/trained/*"))
    for other in others:
        shutil.rmtree(other)
    for path in first.iterdir():
        if path.name != "train.json":
            path.unlink()


def put_placeholder(folder: Path) -> None:
    """Put `PLACE` for the path of `folder` into every text file; a binary file that names it is refused."""
    place = str(folder).encode()
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if place not in content:
            continue
        if b"\0" in content:
            raise SystemExit(f"{path} names its own folder and is no text")
        path.write_bytes(content.replace(place, PLACE.encode()))


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True)
    make(target)
