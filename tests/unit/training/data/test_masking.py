"""Packed documents kept apart: a packed sequence gives the logits and the loss of its documents alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from aftermix.errors import TrainingError
from aftermix.training.data.collate import IGNORED, TokenSequence, collate
from aftermix.training.data.encoding import EncodedExample
from aftermix.training.data.masking import refuse_unmaskable
from aftermix.training.data.packing import CutStream, pack_stream
from aftermix.training.data.token_store import TokenStore
from aftermix.training.trainer import TrainingRecipe, train_one

ROWS = 64


def build(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        options = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=ROWS, n_embd=32, n_layer=2, n_head=2, n_positions=64, **options))
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(vocab_size=ROWS, hidden_size=16, num_hidden_layers=1, state_size=4))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=ROWS, max_position_embeddings=64, attn_implementation=kind, **sizes)
    return LlamaForCausalLM(config)


def documents(*lengths: int) -> TokenStore:
    draw = np.random.default_rng(0)
    encoded = [EncodedExample(draw.integers(1, ROWS, length).astype(np.int32)) for length in lengths]
    return TokenStore.collect(encoded, characters=lengths)


def loss_alone(model: Any, parts: list[torch.Tensor]) -> torch.Tensor:
    """Mean over all predictions of all parts, each part by itself."""
    terms = []
    for part in parts:
        log_p = torch.log_softmax(model(input_ids=part[None], use_cache=False).logits[0], dim=-1)
        terms += [-log_p[place - 1, part[place]] for place in range(1, len(part))]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", ["sdpa", "eager", "gpt2"])
def test_logits_loss_and_gradients_are_those_of_the_documents_alone(kind: str) -> None:
    model = build(kind)
    refuse_unmaskable(model, where="base")
    store = documents(7, 20, 3, 9, 30, 5)
    stream = CutStream(store, 16, seed=1, masked=True)
    sequences = pack_stream(stream, tokens=None, where="-")
    parts = [
        torch.from_numpy(store.ids[begin + piece.start : begin + piece.stop].astype(np.int64))
        for at in range(len(sequences))
        for piece in stream.find_pieces(at * 16, min(at * 16 + 16, sequences.tokens))
        for begin in [int(store.ends[piece.document] - store.lengths[piece.document])]
    ]
    assert sum(map(len, parts)) == store.tokens == 74
    batch = collate(list(sequences))
    assert batch["position_ids"].shape == batch["input_ids"].shape == (5, 16)
    out = model(**batch, use_cache=False)
    alone = torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])
    torch.testing.assert_close(out.logits.reshape(-1, ROWS)[:74], alone, atol=2e-5, rtol=1e-5)
    expected = loss_alone(model, parts)
    torch.testing.assert_close(out.loss, expected)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (out.loss, expected)]
    for packed_gradient, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(packed_gradient, gradient, atol=1e-6, rtol=1e-4)
    # The Trainer's path computes the same loss.
    rows = list(sequences)
    done = train_one(
        build(kind), rows, recipe=TrainingRecipe(batch_size=5, learning_rate=1e-9), device="cpu", threads=1
    )
    assert done.losses == pytest.approx([float(expected.detach())], abs=1e-5)


def test_unmasked_sequences_do_read_across(model: LlamaForCausalLM) -> None:
    stream = CutStream(documents(8, 8), 16, seed=0)
    row, masked = stream.read_sequence(0), CutStream(stream.store, 16, seed=0, masked=True).read_sequence(0)
    assert row.positions is None
    assert masked.positions is not None
    assert masked.positions.tolist() == [*range(8), *range(8)]
    assert masked.labels.tolist() == [IGNORED, *row.ids[1:8].tolist(), IGNORED, *row.ids[9:].tolist()]
    with torch.no_grad():
        across = model(input_ids=row.ids[None], use_cache=False).logits[0, 8:]
        apart = model(input_ids=row.ids[None], position_ids=masked.positions[None], use_cache=False).logits[0, 8:]
    assert (across - apart).abs().max() > 1e-3


def test_an_architecture_that_cannot_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"train.mask_documents: its model .*Remove `mask_documents`, or train another"
    ):
        refuse_unmaskable(build("mamba"), where="train.mask_documents")


def test_a_model_that_ignores_positions_in_its_mask_is_refused(model: LlamaForCausalLM) -> None:
    forward = model.forward

    def deaf(*args: Any, position_ids: Any = None, **options: Any) -> Any:
        return forward(*args, **options)

    model.forward = deaf  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"reads across documents all the same \(logits differ by \d"):
        refuse_unmaskable(model, where="train.mask_documents")


def test_collate_fills_rows_of_every_kind() -> None:
    row = TokenSequence(torch.tensor([5, 6]), torch.tensor([IGNORED, 6]), torch.tensor([0, 0]))
    batch = collate([row, torch.tensor([7, 8, 9]), row.truncate(1)])
    assert batch["input_ids"].tolist() == [[5, 6, 0], [7, 8, 9], [5, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, -100], [7, 8, 9], [-100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 0, 0], [0, 1, 2], [0, 0, 0]]
    assert "position_ids" not in collate([torch.tensor([1])])
