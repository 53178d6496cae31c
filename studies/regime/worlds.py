"""Two small worlds of the repository's own text: the demo's base, and a GPT-2 that the study trains itself."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from aftermix.seeds import derived_seed, generator
from aftermix.terminal import quiet_transformers

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo"
PARTS = {"test": 0.08, "select": 0.08}
"""Shares of a domain's documents that are held out."""


@dataclass(frozen=True)
class Sizes:
    """How long is trained, and on how much is measured."""

    context: int = 192
    batch: int = 4
    steps: int = 26
    base_steps: int = 400
    width: int = 96
    """Of the GPT-2."""
    windows: dict[str, int] = field(default_factory=lambda: {"select": 10, "test": 24, "train": 240})
    """Of each domain and part."""


TINY = Sizes(context=32, batch=2, steps=2, base_steps=2, width=16, windows={"select": 2, "test": 2, "train": 8})


@dataclass(frozen=True)
class SmallWorld:
    """A base, the domain that it knows, and the domains of its experts."""

    name: str
    general: str
    domains: tuple[str, ...]
    """The first two are trained in every way; the others by AdamW alone, for merges of three."""
    rate: float


WORLDS = (
    SmallWorld("llama", "code", ("ja", "math", "zh"), 1e-3),
    SmallWorld("gpt2", "code", ("ja", "zh", "math"), 1e-3),
)


def open_base(world: SmallWorld, folder: Path, sizes: Sizes) -> Path:
    """Folder of the base; the GPT-2 is trained now where it is not there yet."""
    if world.name == "llama":
        return DEMO / "base"
    base = folder / "gpt2-base"
    if not (base / "config.json").is_file():
        tokenizer = load_tokenizer()
        torch.manual_seed(derived_seed(0, "regime") % 2**32)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=sizes.context,
                n_embd=sizes.width,
                n_layer=3,
                n_head=4,
                bos_token_id=1,
                eos_token_id=1,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )
        whole = replace(sizes, windows={**sizes.windows, "train": sizes.base_steps * sizes.batch})
        _pretrain(model, read_windows(world.general, "train", whole), sizes)
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
    return base


def load(folder: Path) -> Any:
    """The model in `folder`, in float32."""
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def read_windows(domain: str, part: str, sizes: Sizes) -> torch.Tensor:
    """(N, T) windows of one part of a domain's documents: `train`, `select` or `test`."""
    return _cut_windows(domain, part, sizes.context, sizes.windows[part])


@lru_cache
def _cut_windows(domain: str, part: str, context: int, wanted: int) -> torch.Tensor:
    tokenizer, ids = load_tokenizer(), list[int]()
    for text in read_texts(domain, part):
        ids += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= wanted * context:
            break
    count = min(len(ids) // context, wanted)
    return torch.tensor(ids[: count * context]).view(count, context)


@lru_cache
def load_tokenizer() -> Any:
    """The demo's, which both worlds have."""
    return AutoTokenizer.from_pretrained(DEMO / "base")


def read_texts(domain: str, part: str) -> list[str]:
    """The documents of one part, in an order of their own."""
    with gzip.open(DEMO / "texts" / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    order = sorted(range(len(texts)), key=lambda number: derived_seed(0, "regime", domain, number))
    start = 0
    for name, share in PARTS.items():
        end = start + max(1, int(share * len(texts)))
        if name == part:
            return [texts[number] for number in order[start:end]]
        start = end
    return [texts[number] for number in order[start:]]


def iterate_batches(windows: torch.Tensor, sizes: Sizes, *, steps: int, key: Sequence[str | int]) -> Any:
    """Batches of windows, by the key alone: every way of training sees the same."""
    stream = generator(0, "regime batches", *key)
    for _ in range(steps):
        yield windows[torch.from_numpy(stream.choice(len(windows), sizes.batch, replace=False))]


def _pretrain(model: Any, windows: torch.Tensor, sizes: Sizes) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, sizes.base_steps, eta_min=2e-5)
    for ids in iterate_batches(windows, sizes, steps=sizes.base_steps, key=("base",)):
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
