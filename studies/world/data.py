"""Training text, held-out text and tasks of a world, disjoint by document and paragraph."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from aftermix.seeds import derived_seed
from studies.world.demo import DEMO, Split, split, write_jsonl_gz, write_packages, write_task
from studies.world.layout import World
from studies.world.random_base import write_random_base
from studies.world.sources import COMMITTED, DOMAINS, GENERAL, fetch, read_documents

EXCERPT_TOKENS = 400_000
GENERAL_TOKENS = 60_000  # of the base's own text, for calibration
SELECT_SHARE = 0.25  # of the held-out documents; the others make items and test text
SELECT_TOKENS, TEST_TOKENS = 6_000, 12_000
ITEMS, TINY_ITEMS = 1000, 32
SPLIT_SEED = 0  # the demo's: what its base was trained on is never held out
LONG_RUN = "ja"
CONTEXT = 256
TINY_SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
"""Of a tiny world's base, where it differs from the demo's."""


def make_data(folder: Path, *, tiny: bool = False) -> World:
    """Write texts, held-out text and tasks into `folder`, and the manifest last."""
    packages = folder / "packages"
    if tiny:
        write_packages(packages / "root")
        write_random_base(folder / "base", TINY_SHAPE)
    else:
        fetch(packages)
    documents = read_documents(packages, tiny=tiny)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEMO / "base")
    base, context = (folder / "base", 32) if tiny else (DEMO / "base", CONTEXT)
    world = World(folder, str(base), GENERAL, DOMAINS, LONG_RUN, context, fingerprint="", tiny=tiny)
    for domain in world.measured:
        texts = split(documents[domain], seed=SPLIT_SEED)
        _write_training_text(world, domain, texts, tokenizer)
        _write_held_out(world, domain, texts.held_out, tokenizer)
    shutil.copy(DEMO / "instruction" / "general.jsonl.gz", world.training_text("it"))
    finished = replace(world, fingerprint=fingerprint(world))
    finished.write()
    return finished


def fingerprint(world: World) -> str:
    """Hash of everything that is measured on."""
    digest = hashlib.sha256()
    files = [world.tasks / f"continue_{domain}.jsonl" for domain in world.measured]
    files += [world.held_out(domain, part) for domain in world.measured for part in ("select", "test")]
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def texts_of(path: Path) -> list[str]:
    """The documents of a file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def write_mixed(paths: Iterable[Path], output: Path) -> Path:
    """The documents of several files in turn, as many of each: calibration text of several domains."""
    rows = zip(*(texts_of(path) for path in paths), strict=False)
    write_jsonl_gz(output, [text for row in rows for text in row])
    return output


def _write_training_text(world: World, domain: str, texts: Split, tokenizer: PreTrainedTokenizerFast) -> None:
    output = world.training_text(domain)
    if domain in COMMITTED and not world.tiny:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / "texts" / output.name, output)
        return
    budget_tokens = world.pick(GENERAL_TOKENS if domain == GENERAL else EXCERPT_TOKENS, tiny=3_000)
    write_jsonl_gz(output, _up_to(texts.main.values(), budget_tokens, tokenizer))


def _write_held_out(world: World, domain: str, held_out: dict[str, str], tokenizer: PreTrainedTokenizerFast) -> None:
    # By document, as the items of lm-eval tasks are split: nothing that selects a setting is seen again in a test.
    order = sorted(held_out, key=lambda name: derived_seed(SPLIT_SEED, "held out", name))
    cut = int(SELECT_SHARE * len(order))
    parts = {"select": (order[:cut], SELECT_TOKENS), "test": (order[cut:], TEST_TOKENS)}
    items = world.pick(ITEMS, tiny=TINY_ITEMS)
    for part, (names, budget_tokens) in parts.items():
        tokens = world.pick(budget_tokens, tiny=100)
        chosen = _up_to((held_out[name] for name in names), tokens, tokenizer)
        write_jsonl_gz(world.held_out(domain, part), chosen)
    tests = {name: held_out[name] for name in sorted(order[cut:])}
    write_task(world.tasks, domain, tests, tokenizer, items=items, seed=SPLIT_SEED)


def _up_to(texts: Iterable[str], budget_tokens: int, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The first texts, up to `budget_tokens` and the rest of the last one."""
    chosen, tokens = [], 0
    for text in texts:
        if tokens >= budget_tokens:
            break
        chosen.append(text)
        tokens += len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return chosen
