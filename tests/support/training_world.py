"""A tiny real world: a byte-pair tokenizer and a two-layer Llama, saved as a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aftermix.config import Config, parse_config

SENTENCES = [f"the {a} cat sees the {b} dog and the {b} bird" for a in ("red", "old", "sly") for b in ("big", "wet")]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_tokenizer(folder: Path, *, vocab_size: int = 120) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<end>"], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.save_pretrained(folder)
    return fast


def build_model(*, tied: bool = True, layers: int = 2, vocab_size: int = 128) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        eos_token_id=0,
        bos_token_id=0,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def model() -> LlamaForCausalLM:
    return build_model()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied bfloat16 base with its tokenizer. Read-only: tests that change it copy it."""
    folder = tmp_path_factory.mktemp("world") / "base"
    build_model().to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES * 20))
    return path


MakeConfig = Callable[..., Config]


@pytest.fixture
def make_config(base_folder: Path, corpus: Path, tmp_path: Path) -> MakeConfig:
    """A training file over the tiny world; keyword arguments replace entries of its `train:` section."""

    def make(*, base: Path | str | None = base_folder, **train: Any) -> Config:
        section = {
            "datasets": {"cats": {"data": str(corpus), "tokens": 640}},
            "context": 32,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "threads": 1,
            "device": "cpu",
            **train,
        }
        return parse_config({"base": base and str(base), "train": section}, where="train.yaml", folder=tmp_path)

    return make
