"""SAM and ASAM against steps by hand and a slow twin."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aftermix.errors import TrainingError
from aftermix.training import ASAM, SAM


def test_a_sam_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = SAM(torch.optim.SGD([weight], lr=0.1), rho=0.5)
    (0.5 * weight**2).sum().backward()  # gradient (3, 4), norm 5
    with optimizer.perturbed():
        assert weight.tolist() == pytest.approx([3.3, 4.4])
        assert weight.grad is None
        (0.5 * weight**2).sum().backward()
    assert weight.tolist() == [3.0, 4.0]
    optimizer.step()
    assert weight.tolist() == pytest.approx([3 - 0.33, 4 - 0.44])


def test_an_asam_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([3.0, -1.0], dtype=torch.float64))
    optimizer = ASAM(torch.optim.SGD([weight], lr=0.1), rho=0.5, eta=1.0)
    (0.5 * weight**2).sum().backward()  # T = (4, 2), T g = (12, -2), T^2 g = (48, -4)
    norm = math.sqrt(148)
    with optimizer.perturbed():
        assert weight.tolist() == pytest.approx([3 + 24 / norm, -1 - 2 / norm])
        (0.5 * weight**2).sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([3 - 0.1 * (3 + 24 / norm), -1 + 0.1 * (1 + 2 / norm)])


def twin_ascent(weights: list[torch.Tensor], gradients: list[torch.Tensor], rho: float, eta: float | None) -> None:
    """One element at a time, in Python floats."""
    scales = [[1.0 if eta is None else abs(w) + eta for w in weight.flatten().tolist()] for weight in weights]
    flat = [gradient.flatten().tolist() for gradient in gradients]
    norm = math.sqrt(
        sum((t * g) ** 2 for ts, gs in zip(scales, flat, strict=True) for t, g in zip(ts, gs, strict=True))
    )
    for weight, ts, gs in zip(weights, scales, flat, strict=True):
        moves = [rho * t * (t if eta is not None else 1) * g / norm for t, g in zip(ts, gs, strict=True)]
        weight += torch.tensor(moves, dtype=weight.dtype).view(weight.shape)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), rho=st.floats(0.01, 2), eta=st.sampled_from([None, 0.0, 0.01, 1.0]))
def test_equals_a_slow_twin(seed: int, rho: float, eta: float | None) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    parameters = list(model.parameters())
    base = torch.optim.SGD(parameters, lr=0.1)
    optimizer = SAM(base, rho=rho) if eta is None else ASAM(base, rho=rho, eta=eta)
    before = [p.detach().clone() for p in parameters]
    gradients = torch.autograd.grad(model(inputs).square().sum(), parameters)
    expected = [value.clone() for value in before]
    twin_ascent(expected, list(gradients), rho, eta)
    model(inputs).square().sum().backward()
    with optimizer.perturbed():
        for parameter, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=1e-9, atol=1e-11)
    assert all(torch.equal(p, value) for p, value in zip(parameters, before, strict=True))


@pytest.mark.parametrize("kind", [SAM, ASAM])
def test_micro_batches_ascend_on_their_own_and_their_gradients_add_up(kind: type) -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = kind(torch.optim.SGD([weight], lr=1.0))
    targets = [torch.tensor([0.0, 5.0]), torch.tensor([-3.0, 1.0])]
    total = torch.zeros(2, dtype=torch.float64)
    for target in targets:

        def run(target: torch.Tensor = target) -> float:
            loss = (0.5 * (weight - target) ** 2).sum()
            loss.backward()
            return loss.item()

        alone = kind(torch.optim.SGD([weight], lr=1.0))
        kept, weight.grad = weight.grad, None
        run()
        with alone.perturbed():
            run()
        total += weight.grad
        weight.grad = kept
        assert optimizer.gradient_of(run) == pytest.approx((0.5 * (weight.detach() - target) ** 2).sum().item())
    torch.testing.assert_close(weight.grad, total)
    before = weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - total)


def test_bad_use_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2))
    base = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(TrainingError, match=r"SAM: rho: expected a positive number, found 0"):
        SAM(base, rho=0)
    with pytest.raises(TrainingError, match=r"ASAM: eta: expected a number from 0, found -1"):
        ASAM(base, eta=-1)
    optimizer = SAM(base)
    with (
        pytest.raises(TrainingError, match=r"there is no gradient to ascend along. Run a forward"),
        optimizer.perturbed(),
    ):
        pass
    weight.sum().backward()
    with pytest.raises(TrainingError, match=r"SAM.step: no perturbation since the last step"):
        optimizer.step()
    assert weight.tolist() == [1.0, 1.0]
