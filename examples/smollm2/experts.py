"""One expert per domain: a low-rank adapter trained on a little text, then folded into a full checkpoint.

`aftermix train` trains every weight; most experts that people share are adapters. Folded, an adapter is a model like
any other, which is what doctor, plan and search take. Data, packing, the training loop and the writer are aftermix's.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.reader import open_checkpoint
from aftermix.training.base_model import build_document_encoder, load_base, load_tokenizer
from aftermix.training.data.examples import read_documents
from aftermix.training.data.packing import PackedTokens, pack_documents
from aftermix.training.expert import write_expert
from aftermix.training.trainer import TrainingRecipe, train_one

RANK = 16
RECIPE = TrainingRecipe(batch_size=2, learning_rate=5e-4, warmup_steps=3, weight_decay=0.0)


@dataclass(frozen=True)
class TextBudget:
    """How much an expert reads."""

    tokens: int = 12_000
    context: int = 256


def make_expert(
    base_folder: Path, data: Path, folder: Path, *, budget: TextBudget | None = None, adapter: bool = True
) -> Path:
    """Train an adapter on `data` (JSONL), fold it into the base and write the expert as the new model `folder`.

    Without `adapter` every weight is trained, which needs no peft.
    """
    base = open_checkpoint(base_folder)
    packed = packed_tokens(base_folder, data, budget or TextBudget())
    model = load_base(base)
    if adapter:
        model = with_adapter(model)

    trained = train_one(model, packed, recipe=RECIPE, device="cpu", label=f"train {folder.name}")
    record = {
        "adapter": {"rank": RANK, "target": "all linear layers"} if adapter else None,
        "recipe": asdict(RECIPE) | {"optimizer": RECIPE.optimizer.model_dump(mode="json")},
        "tokens": packed.tokens,
        "epochs": round(packed.epochs, 3),
        "loss": {"first": trained.losses[0], "final": trained.final_loss},
        "seconds": round(trained.seconds, 1),
    }
    write_expert(folder, fold(model) if adapter else model, base, dtype=None, record=record)
    return folder


def packed_tokens(base_folder: Path, data: Path, budget: TextBudget) -> PackedTokens:
    """The first tokens of the documents in `data`, in a seeded order, cut into sequences."""
    encode = build_document_encoder(load_tokenizer(base_folder), where=str(base_folder))
    return pack_documents(read_documents(data), encode, context=budget.context, tokens=budget.tokens, seed=0)


def can_train_adapters() -> bool:
    """Whether peft is there, which the extra `examples` installs."""
    return importlib.util.find_spec("peft") is not None


def with_adapter(model: Any) -> Any:
    """`model` frozen, with a trainable adapter on every linear layer but the head. The adapter starts at no change."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))


def fold(adapted: Any) -> Any:
    """The model with each weight W replaced by W + (alpha / rank) B A, under the names it had without the adapter."""
    return adapted.merge_and_unload()
