"""Merge-aware training of adapters: the folded weight moves by what is asked, the factors stay where they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from aftermix.config import LoraConfig
from aftermix.training.distributed.processes import gather_state
from aftermix.training.lora import add_adapters, fold_adapters
from aftermix.training.optimizers import MergeAware
from aftermix.training.optimizers.folded_weight import find_folded_weights

pytest.importorskip("peft")
IDS = torch.arange(1, 13).view(2, 6)


def build_adapted(model: LlamaForCausalLM, kind: str) -> Any:
    """A model with adapters that have learnt something, on some of its layers."""
    if kind == "gpt2":  # stores its weights transposed
        torch.manual_seed(0)
        sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))  # type: ignore[assignment]
    targets = ("c_attn", "c_proj") if kind == "gpt2" else ("q_proj", "down_proj")
    add_adapters(model, LoraConfig(rank=4, alpha=6.0, targets=targets), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


def build_folded(adapted: Any) -> Any:
    """The same model without adapters."""
    plain = type(adapted)(adapted.config)
    plain.load_state_dict(fold_adapters(adapted, gather_state(adapted)))
    return plain.eval()


def wrap(model: Any, **options: Any) -> MergeAware:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, named = torch.optim.SGD(trainable, lr=0.1), model.named_parameters()
    folded = find_folded_weights(model)
    return MergeAware(optimizer, seed=3, scale=1e-2, named_parameters=named, folded=folded, **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"memory": "regenerate"}, {"location": 0.01, "distribution": "gaussian"}])
def test_the_folded_weight_moves_as_a_trained_weight_would(
    model: LlamaForCausalLM, kind: str, options: dict[str, Any]
) -> None:
    adapted = build_adapted(model, kind)
    plain = build_folded(adapted)
    names = [folded.name for folded in find_folded_weights(adapted)]
    assert len(names) in (4, 6)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}

    ours, twin = wrap(adapted, **options), wrap(plain, **options)
    with ours.perturbed(), twin.perturbed():
        folded, moved = fold_adapters(adapted, gather_state(adapted)), plain.state_dict()
        for name in names:
            torch.testing.assert_close(folded[name], moved[name], atol=1e-6, rtol=0)
            assert not torch.allclose(moved[name], before[name.replace(".weight", ".base_layer.weight")], atol=1e-3)
        factors = {name: tensor for name, tensor in adapted.state_dict().items() if ".lora_" in name}
        assert all(torch.equal(tensor, before[name]) for name, tensor in factors.items())

    after = adapted.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_own_vector_pulls_the_folded_weight_to_the_base(model: LlamaForCausalLM, kind: str) -> None:
    """`W + s B A + (a - 1) s B A + noise`: the expert's own vector at the coefficient that was drawn."""
    adapted = build_adapted(model, kind)
    optimizer = wrap(adapted, offset="own_vector", max_experts=1)
    start = {name: t.clone() for name, t in adapted.state_dict().items() if name.endswith("base_layer.weight")}
    folded = fold_adapters(adapted, gather_state(adapted))
    a = optimizer.next_draw.coefficient
    with optimizer.perturbed():
        moved = fold_adapters(adapted, gather_state(adapted))
    for name, base in start.items():
        plain = name.replace("base_layer.", "")
        torch.testing.assert_close(moved[plain], base + a * (folded[plain] - base), atol=1e-6, rtol=0)


def test_factors_get_the_gradient_at_the_moved_folded_weight(model: LlamaForCausalLM) -> None:
    """`dL/dA = s B^T G` and `dL/dB = s G A^T`, `G` the gradient of the twin without adapters."""
    adapted = build_adapted(model, "llama")
    plain = build_folded(adapted)
    folded = find_folded_weights(adapted)
    with wrap(adapted).perturbed():
        adapted(input_ids=IDS, labels=IDS).loss.backward()

    # The layers without adapters are frozen there, so they stay here, too.
    names = {entry.name for entry in folded}
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name in names)
    with wrap(plain).perturbed():
        plain(input_ids=IDS, labels=IDS).loss.backward()

    for entry in folded:
        gradient, (low, high) = plain.get_parameter(entry.name).grad, entry.factors
        torch.testing.assert_close(low.grad, 1.5 * high.detach().T @ gradient, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(high.grad, 1.5 * gradient @ low.detach().T, atol=1e-6, rtol=1e-4)


def test_a_model_without_adapters_has_no_folded_weight(model: LlamaForCausalLM) -> None:
    assert find_folded_weights(model) == []
