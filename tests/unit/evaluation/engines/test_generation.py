"""Stopping looks at few tokens and still sees every stop text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from aftermix.evaluation.engines.generation import StopOnText

PIECES = st.sampled_from(["red", " blue", "\n", "Question", ":", "é", "日本", " the", ".", "?\n\n", "x"])


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folder)


@settings(max_examples=60)
@given(texts=st.lists(st.lists(PIECES, min_size=1, max_size=8).map("".join), min_size=1, max_size=3))
def test_a_sequence_is_done_as_soon_as_it_holds_a_stop_text(tokenizer: Any, texts: list[str]) -> None:
    stops, prompt = ["\n\n", "Question:", "é", "本"], [7, 8]
    rows = [prompt + tokenizer.encode(text, add_special_tokens=False) for text in texts]
    length = max(map(len, rows))
    padded = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    criterion = StopOnText(tokenizer, stops, prompt_length=2, sequences=len(rows), endings={})
    for end in range(3, length + 1):
        done = criterion(padded[:, :end], None)
        seen = [tokenizer.decode(row[2:end]) for row in padded.tolist()]
        assert done.tolist() == [any(stop in text for stop in stops) for text in seen]
