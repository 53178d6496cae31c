"""The scale of merge-aware noise by its damage: found by bisection, for what would move, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from aftermix.config import LoraConfig
from aftermix.errors import TrainingError
from aftermix.seeds import derived_seed
from aftermix.training import MergeAware
from aftermix.training.base_model import freeze
from aftermix.training.data.collate import TokenSequence
from aftermix.training.noise_scale.damage import DRAWS, DamageMeter, find_damage_scale


@pytest.fixture
def rows() -> list[TokenSequence]:
    drawn = torch.randint(1, 6, (8, 24), generator=torch.Generator().manual_seed(1))
    return [TokenSequence(row, row) for row in drawn]


@pytest.fixture
def learnt(model: LlamaForCausalLM, rows: list[TokenSequence]) -> LlamaForCausalLM:
    """A model that knows the rows a little, so that noise costs it something."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.stack([row.ids for row in rows])
    for _ in range(20):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def loss_of(model: LlamaForCausalLM, rows: Sequence[TokenSequence]) -> float:
    ids = torch.stack([row.ids for row in rows])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def rise_written_out(model: LlamaForCausalLM, rows: list[TokenSequence], scale: float, **options: Any) -> float:
    """The mean rise over the draws, each noise added by hand."""
    plain, found = loss_of(model, rows), []
    for number in range(DRAWS):
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        noisy = MergeAware(sgd, scale=1.0, coefficients=[2], max_experts=1, seed=derived_seed(3, "damage", number),
                           named_parameters=model.named_parameters(), **options)  # fmt: skip
        noisy.move()
        noise = {name: p.detach() - kept[name] for name, p in model.named_parameters()}
        noisy.restore()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(noise[name], alpha=scale)
            found.append(loss_of(model, rows) - plain)
            for name, parameter in model.named_parameters():
                parameter.copy_(kept[name])
    return sum(found) / len(found)


@pytest.mark.parametrize("damage", [0.01, 0.05, 0.5])
def test_the_scale_costs_what_was_asked(learnt: LlamaForCausalLM, rows: list[TokenSequence], damage: float) -> None:
    before = {name: p.detach().clone() for name, p in learnt.named_parameters()}
    found = find_damage_scale(DamageMeter(learnt, rows, 4, seed=3), damage)
    assert found.rise == pytest.approx(damage, rel=0.05)
    assert found.rise == pytest.approx(rise_written_out(learnt, rows, found.scale), rel=1e-2)
    assert found.loss == pytest.approx(loss_of(learnt, rows), rel=1e-5)
    assert (found.tokens, f"{found.scale:.3g}") == (8 * 24, f"{found.scale:g}")
    assert all(torch.equal(p, before[name]) for name, p in learnt.named_parameters())
    assert learnt.training
    assert find_damage_scale(DamageMeter(learnt, rows, 8, seed=3), damage).scale == found.scale
    assert find_damage_scale(DamageMeter(learnt, rows, 8, seed=4), damage).scale != found.scale


def test_what_does_not_move_costs_nothing(learnt: LlamaForCausalLM, rows: list[TokenSequence]) -> None:
    """The fewer tensors move, the larger their noise may be; frozen and excluded ones are alike."""
    everything = find_damage_scale(DamageMeter(learnt, rows, 8, seed=3), 0.05)
    norms_alone = [name for name, p in learnt.named_parameters() if p.ndim > 1]
    excluded = find_damage_scale(DamageMeter(learnt, rows, 8, seed=3, exclude=norms_alone), 0.05)
    assert excluded.scale > 2 * everything.scale
    assert excluded.rise == pytest.approx(rise_written_out(learnt, rows, excluded.scale, exclude=norms_alone), rel=1e-2)
    freeze(learnt, tuple(norms_alone))
    assert find_damage_scale(DamageMeter(learnt, rows, 8, seed=3), 0.05).scale == excluded.scale


def test_folded_weights_move_in_the_place_of_adapters(learnt: LlamaForCausalLM, rows: list[TokenSequence]) -> None:
    pytest.importorskip("peft")
    from aftermix.training.lora import add_adapters

    linear = [name for name, p in learnt.named_parameters() if p.ndim == 1 or "embed" in name]
    whole = find_damage_scale(DamageMeter(learnt, rows, 8, seed=3, exclude=linear), 0.05)
    add_adapters(learnt, LoraConfig(rank=2), seed=0)
    assert find_damage_scale(DamageMeter(learnt, rows, 8, seed=3), 0.05).scale == whole.scale


def test_gaussian_noise_has_a_scale_of_its_own(learnt: LlamaForCausalLM, rows: list[TokenSequence]) -> None:
    """A standard Laplace entry has the variance 2, so a normal one costs the same at about the root of it times."""
    laplace = find_damage_scale(DamageMeter(learnt, rows, 8, seed=3), 0.05)
    gaussian = find_damage_scale(DamageMeter(learnt, rows, 8, seed=3, distribution="gaussian"), 0.05)
    assert gaussian.scale / laplace.scale == pytest.approx(2**0.5, rel=0.25)


def test_damage_that_no_noise_does_is_refused(learnt: LlamaForCausalLM, rows: list[TokenSequence]) -> None:
    """Behind the last norm the hidden state has one length, and with the head at rest the loss has a limit."""
    meter = DamageMeter(learnt, rows, 8, seed=3, exclude=["embed_tokens", "norm"])
    with pytest.raises(
        TrainingError, match=r"no noise raises the base's loss by 1000 nats a token \(by [\d.]+ at most\)"
    ):
        find_damage_scale(meter, 1000.0)
