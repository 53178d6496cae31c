"""Weights of few bits that do not move are told, with their share, once for each cause."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

from aftermix.training import MergeAware


def step(optimizer: MergeAware, weights: torch.Tensor, *, gradient: float = 1.0) -> list[str]:
    """Warnings of one step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with optimizer.perturbed():
            weights.grad = torch.full_like(weights, gradient)
        optimizer.step()
    return [str(entry.message) for entry in caught]


def wrap(weights: torch.Tensor, *, lr: float, scale: float) -> MergeAware:
    base = torch.optim.SGD([weights.requires_grad_()], lr=lr)
    return MergeAware(base, scale=scale, coefficients=(0.5,), max_experts=1, seed=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moves_and_steps_that_round_away_are_told_once(dtype: torch.dtype) -> None:
    weights = torch.ones(4096, dtype=dtype)
    optimizer = wrap(weights, lr=1e-6, scale=1e-5)
    of_move, of_step = step(optimizer, weights)
    assert of_move == (
        "100% of the weights in bfloat16 or float16 did not move in step 1: the perturbation (scale 1e-05) is below "
        "half a unit in their last place. Keep the weights in float32, e.g. `model.float()` under autocast."
    )
    assert of_step.startswith(
        "100% of the weights in bfloat16 or float16 did not move in step 1: the optimizer's update"
    )
    assert step(optimizer, weights) == []


def test_the_share_is_that_of_the_weights_that_stay() -> None:
    """Three quarters are too large for the move, one quarter is not."""
    weights = torch.cat([torch.full((3072,), 64.0), torch.full((1024,), 1e-4)]).to(torch.bfloat16)
    (message,) = step(wrap(weights, lr=10.0, scale=1e-3), weights)
    assert re.match(r"75% of the weights .* the perturbation", message)


def test_what_moves_is_not_told() -> None:
    for dtype, scale, lr in ((torch.float32, 1e-5, 1e-6), (torch.bfloat16, 0.5, 0.1)):
        weights = torch.ones(4096, dtype=dtype)
        assert step(wrap(weights, lr=lr, scale=scale), weights) == []


def test_weights_without_a_gradient_are_not_expected_to_step() -> None:
    weights = torch.ones(4096, dtype=torch.bfloat16)
    assert step(wrap(weights, lr=1e-6, scale=0.5), weights, gradient=0.0) == []
