"""Tangent-space training against the explicit Jacobian of a tiny model."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from aftermix.config import Config, OptimizerConfig
from aftermix.errors import AftermixError
from aftermix.jobs.train.command import train
from aftermix.training.tangent import linearise
from aftermix.training.trainer import TrainingRecipe, train_one

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=12, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def moved(model: Any, by: float) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype), alpha=by)


# Llama's norms compute in float32 whatever its weights are, so a difference needs a longer step and says less.
@pytest.mark.parametrize(("make", "step", "tolerance"), [(llama, 1e-3, 1e-3), (gpt2, 1e-4, 1e-5)])
def test_the_logits_are_the_first_two_terms_of_the_series(make: Any, step: float, tolerance: float) -> None:
    model = make().double().eval()
    start, direction = copy.deepcopy(model), copy.deepcopy(model)
    moved(direction, 0.1)
    with linearise(model):
        moved(model, 0.1 * 3)
        found = model(input_ids=IDS).logits

    def logits_at(share: float) -> torch.Tensor:
        shifted = copy.deepcopy(start)
        with torch.no_grad():
            for parameter, origin, end in zip(
                shifted.parameters(), start.parameters(), direction.parameters(), strict=True
            ):
                parameter.copy_(origin + share * (end - origin))
            return shifted(input_ids=IDS).logits

    slope = (logits_at(step) - logits_at(-step)) / (2 * step)
    expected = logits_at(0.0) + 3 * slope
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    torch.testing.assert_close(model(input_ids=IDS).logits, logits_at(3.0))  # the ordinary model again
    assert (found - model(input_ids=IDS).logits).abs().max() > 1e-2


def test_training_is_that_of_a_linear_model_written_out() -> None:
    model = llama()
    names = [name for name, _ in model.named_parameters()]
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    twin = copy.deepcopy(model)

    def logits_at(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(twin, given, kwargs={"input_ids": IDS}).logits

    twin.config._attn_implementation = "eager"
    origin = logits_at(*start.values()).detach()
    jacobian = torch.func.jacrev(logits_at, argnums=tuple(range(len(names))))(*start.values())
    expected = {name: value.clone() for name, value in start.items()}
    losses = []
    for _ in range(3):
        logits = origin + sum(
            torch.tensordot(slope.detach(), expected[name] - start[name], dims=start[name].dim())
            for name, slope in zip(names, jacobian, strict=True)
        )
        logits = logits.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 12), IDS[:, 1:].reshape(-1))
        loss.backward()
        losses.append(float(loss.detach()))
        for name, slope in zip(names, jacobian, strict=True):
            expected[name] -= 0.5 * torch.tensordot(logits.grad, slope.detach(), dims=3)
    recipe = TrainingRecipe(
        batch_size=2,
        learning_rate=0.5,
        schedule="constant",
        weight_decay=0.0,
        max_grad_norm=1e9,
        optimizer=OptimizerConfig(name="sgd"),
    )
    done = train_one(model, [row for _ in range(3) for row in IDS], recipe=recipe, device="cpu", tangent=True)
    assert done.losses == pytest.approx(losses, rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-6)
    assert max((expected[name] - start[name]).abs().max() for name in names) > 0.05
    assert "forward" not in vars(model)


def test_frozen_parameters_are_no_part_of_the_tangent_space() -> None:
    model = llama()
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before = frozen.detach().clone()
    recipe = TrainingRecipe(batch_size=2, learning_rate=1e-2)
    train_one(model, list(IDS), recipe=recipe, device="cpu", tangent=True)
    assert torch.equal(frozen, before)


class NoDerivative(torch.autograd.Function):
    """The identity, as far as nobody asks how it changes."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_an_operation_without_a_derivative_is_refused() -> None:
    model = llama()
    model.model.norm.register_forward_hook(lambda _, __, output: NoDerivative.apply(output))
    with (
        linearise(model),
        pytest.raises(AftermixError, match=re.escape("train.tangent: LlamaForCausalLM cannot be linearised (")),
    ):
        model(input_ids=IDS)


def test_the_job_trains_in_the_tangent_space(make_config: Callable[..., Config], tmp_path: Path) -> None:
    plain = train(make_config(), tmp_path / "plain")["cats"]
    tangent = train(make_config(tangent=True), tmp_path / "tangent")["cats"]
    ordinary, linear = (load_file(folder / "model.safetensors") for folder in (plain, tangent))
    assert ordinary.keys() == linear.keys()
    assert any(not torch.equal(ordinary[name], linear[name]) for name in ordinary)
    record = json.loads((tangent / "train.json").read_text())
    assert record["recipe"]["tangent"] is True
    assert record["loss"]["final"] < record["loss"]["first"]


def test_adapters_have_no_tangent_space(make_config: Callable[..., Config]) -> None:
    with pytest.raises(
        AftermixError, match=re.escape("'tangent' is linear in the weights, and adapters are a product")
    ):
        make_config(tangent=True, lora={"rank": 2})
