"""A base of random numbers with the tokenizer of the demo's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from studies.world.demo import DEMO


def write_random_base(folder: Path, shape: Mapping[str, int]) -> None:
    """Write a model folder; `shape` is where its configuration differs from that of the demo's base."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(DEMO / "base", **shape)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
