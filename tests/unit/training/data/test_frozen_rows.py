"""Tokens of the data whose rows nothing has trained are named where the embeddings stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from aftermix.jobs.train.command import train
from aftermix.training.data.frozen_rows import is_untrained

EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("kind", ["zero", "twin", "mean", "resized"])
def test_rows_that_nothing_has_trained(model: LlamaForCausalLM, kind: str) -> None:
    rows = model.get_input_embeddings().weight.detach().clone()
    assert not any(is_untrained(rows, token) for token in range(len(rows)))
    if kind == "resized":
        model.resize_token_embeddings(len(rows) + 3)
        rows = model.get_input_embeddings().weight.detach()
        assert [token for token in range(len(rows)) if is_untrained(rows, token)] == list(
            range(len(rows) - 3, len(rows))
        )
        return
    rows[7] = {"zero": torch.zeros(32), "twin": rows[9], "mean": rows.mean(dim=0)}[kind]
    assert [token for token in range(len(rows)) if is_untrained(rows, token)] == ([7, 9] if kind == "twin" else [7])


def test_they_are_told_where_the_embeddings_are_frozen(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(base_folder, tmp_path / "base"))
    stored = load_file(base / "model.safetensors")
    stored[EMBEDDING][0] = 0  # that of <end>
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})

    said: dict[str, list[str]] = {"frozen": [], "trained": [], "known": []}
    frozen = {"freeze": ["embed_tokens"]}
    train(make_config(base=base, **frozen), tmp_path / "a", log=said["frozen"].append)
    train(make_config(base=base), tmp_path / "b", log=said["trained"].append)
    train(make_config(**frozen), tmp_path / "c", log=said["known"].append)
    assert [line for line in said["frozen"] if "untrained" in line] == [
        "cats: rows of <end> (57 times) look untrained, and the embeddings are not trained here: leave out `lora` or "
        "`freeze`, or take a base that knows these tokens"
    ]
    assert not [line for line in said["trained"] + said["known"] if "untrained" in line]
