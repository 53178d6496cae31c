"""MergeAware on small models: where the gradient is taken, what is restored, and what the state carries."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aftermix.errors import AftermixError, TrainingError
from aftermix.training import MergeAware
from aftermix.training.optimizers.local_shard import LocalShard
from aftermix.training.optimizers.noise import FreshNoise
from aftermix.training.optimizers.perturbation import Perturbation
from aftermix.training.optimizers.restore import NoiseRegeneration

MODES: list[dict[str, Any]] = [
    {},
    {"memory": "regenerate"},
    {"noise": "table"},
    {"distribution": "gaussian", "location": 1e-3},
    {"memory": "regenerate", "noise": "table", "location": -1e-3},
    {"offset": "own_vector"},
]


def network(*, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, 2)).to(dtype)


def batch(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return model(inputs.to(next(model.parameters()).dtype)).square().mean()


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, **options)


def bits(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    # Bytes, not values: -0.0 is not 0.0 here.
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(one.view(torch.uint8), other.view(torch.uint8)) for one, other in pairs)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        if isinstance(optimizer, MergeAware):
            with optimizer.perturbed():
                loss_of(model, batch(seed=step)).backward()
        else:
            loss_of(model, batch(seed=step)).backward()
        optimizer.step()


@pytest.mark.parametrize("options", MODES)
def test_the_gradient_is_the_one_at_the_moved_weights(options: dict[str, Any]) -> None:
    model = network(dtype=torch.float64)
    optimizer = MergeAware(adamw(model), scale=0.05, **options)
    take_steps(model, optimizer, range(2))
    before = bits(model)
    inputs = batch(dtype=torch.float64)
    optimizer.zero_grad()
    with optimizer.perturbed():
        moved = bits(model)
        loss_of(model, inputs).backward()
    assert same(bits(model), before)
    twin = copy.deepcopy(model)
    for parameter, value in zip(twin.parameters(), moved, strict=True):
        parameter.data.copy_(value)
    for parameter, at_moved in zip(model.parameters(), twin.parameters(), strict=True):
        flat, found = at_moved.data.view(-1), parameter.grad.view(-1)
        for index in range(0, flat.numel(), 3):
            value = flat[index].item()
            sides = []
            for side in (1e-6, -1e-6):
                flat[index] = value + side
                sides.append(loss_of(twin, inputs).item())
            flat[index] = value
            assert found[index].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_a_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = MergeAware(
        torch.optim.SGD([weight], lr=0.1), scale=0.5, location=0.25, coefficients=[0.5], max_experts=1
    )
    noise = FreshNoise("laplace", 0).draw_block(("0.0", 0, 0), 0, 2, torch.device("cpu")).double()
    with optimizer.perturbed():
        (weight**2).sum().backward()
    optimizer.step()
    z = 0.25 + 0.5 * noise
    moved = torch.tensor([2.0, -1.0], dtype=torch.float64) + (1 * 0.5 - 1) * z
    expected = torch.tensor([2.0, -1.0], dtype=torch.float64) - 0.1 * 2 * moved
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)


def test_a_scale_by_tensor_and_excluded_tensors() -> None:
    """What moves has the noise that one scale would give it, times its own; the rest stays where it is."""

    def find_moves(**options: Any) -> dict[str, torch.Tensor]:
        model = network()
        named = dict(model.named_parameters())
        optimizer = MergeAware(adamw(model), named_parameters=named.items(), seed=1, **options)
        before = {name: tensor.detach().clone() for name, tensor in named.items()}
        with optimizer.perturbed():
            return {name: tensor.detach() - before[name] for name, tensor in named.items()}

    whole = find_moves(scale=0.5)
    by_tensor = find_moves(scale={"0.weight": 1.0, "2.weight": 0.25})
    torch.testing.assert_close(by_tensor["0.weight"], 2 * whole["0.weight"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_tensor["2.weight"], whole["2.weight"] / 2, rtol=1e-4, atol=1e-6)
    assert {name for name, move in by_tensor.items() if move.any()} == {"0.weight", "2.weight"}

    without = find_moves(scale=0.5, exclude=["bias"], location=1.0)
    assert [name for name, move in without.items() if not move.any()] == ["0.bias", "2.bias", "3.bias"]
    for patterns, message in ((["norm"], "'norm' matches no tensor that is trained; there is"), ([""], "empty")):
        with pytest.raises(AftermixError, match=message):
            find_moves(exclude=patterns)


def test_own_vector_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = MergeAware(
        torch.optim.SGD([weight], lr=1.0), scale=0.5, coefficients=[0.25], max_experts=3, offset="own_vector", seed=4
    )
    assert optimizer.next_draw.experts > 1
    start = weight.detach().clone()
    with torch.no_grad():
        weight += 8.0
    source, experts = FreshNoise("laplace", 4), optimizer.next_draw.experts
    others = 0.5 * source.draw_block(("0.0", 0, 0), 0, 2, torch.device("cpu"), summands=experts - 1).double()
    with optimizer.perturbed():
        torch.testing.assert_close(weight.detach(), start + 8.0 + (0.25 - 1) * 8.0 + 0.25 * others, rtol=1e-12, atol=0)


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop])
def test_scale_zero_is_the_base_optimizer_to_the_bit(base: type) -> None:
    ours, theirs = network(), network()
    take_steps(ours, MergeAware(base(ours.parameters(), lr=1e-2), scale=0.0), range(4))
    take_steps(theirs, base(theirs.parameters(), lr=1e-2), range(4))
    assert same(bits(ours), bits(theirs))


def test_the_move_is_what_makes_the_difference() -> None:
    ours, theirs = network(), network()
    take_steps(ours, MergeAware(adamw(ours), scale=0.1), range(4))
    take_steps(theirs, adamw(theirs), range(4))
    assert not same(bits(ours), bits(theirs))


@pytest.mark.parametrize("options", MODES)
def test_an_error_in_the_backward_pass_restores_every_bit(options: dict[str, Any]) -> None:
    model = network()
    optimizer = MergeAware(adamw(model), scale=0.1, **options)
    take_steps(model, optimizer, range(1))
    model[0].weight.data[0, :3] = torch.tensor([-0.0, 1e-30, 1e-42])
    before = bits(model)

    def fail(_: torch.Tensor) -> None:
        raise RuntimeError("lost")

    def lose_the_gradient() -> None:
        with optimizer.perturbed():
            assert not same(bits(model), before)
            output = loss_of(model, batch())
            output.register_hook(fail)
            output.backward()

    with pytest.raises(RuntimeError, match="lost"):
        lose_the_gradient()
    assert same(bits(model), before)
    with pytest.raises(TrainingError, match="no perturbation since the last step"):
        optimizer.step()


def test_a_step_without_a_perturbation_is_refused() -> None:
    model = network()
    optimizer = MergeAware(adamw(model))
    for _ in range(2):
        loss_of(model, batch()).backward()
        before = bits(model)
        with pytest.raises(
            TrainingError,
            match=r"MergeAware.step: no perturbation since the last step, so this gradient is not the one at moved "
            r"weights. Run forward and backward in `with optimizer.perturbed\(\):`, or attach it to the model.",
        ):
            optimizer.step()
        assert same(bits(model), before)
        take_steps(model, optimizer, range(1))
    with (
        pytest.raises(TrainingError, match="the weights are moved already. Leave the other block first"),
        optimizer.perturbed(),
        optimizer.perturbed(),
    ):
        pass


def test_one_draw_a_step_for_all_micro_batches() -> None:
    model = network()
    optimizer = MergeAware(adamw(model), scale=0.1, coefficients=[0.5], max_experts=1)
    seen = []
    for _ in range(2):
        for _ in range(2):
            with optimizer.perturbed():
                seen.append(bits(model))
                loss_of(model, batch()).backward()
        optimizer.step()
    assert same(seen[0], seen[1])
    assert same(seen[2], seen[3])
    assert not same(seen[0], seen[2])
    assert optimizer.draws == 2


def test_only_parameters_that_require_gradients_move() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = MergeAware(adamw(model), scale=0.1, coefficients=[0.5], max_experts=1)
    before = bits(model)
    with optimizer.perturbed():
        moved = [not torch.equal(now, then) for now, then in zip(bits(model), before, strict=True)]
    assert moved == [False, True, True, True, True, True]


@pytest.mark.parametrize("options", MODES)
def test_resuming_gives_the_run_that_was_not_interrupted(options: dict[str, Any]) -> None:
    whole, first = network(), network()
    take_steps(whole, MergeAware(adamw(whole), scale=0.1, seed=7, **options), range(6))
    begun = MergeAware(adamw(first), scale=0.1, seed=7, **options)
    take_steps(first, begun, range(3))
    saved = copy.deepcopy((first.state_dict(), begun.state_dict()))
    second = network()
    second.load_state_dict(saved[0])
    resumed = MergeAware(adamw(second), scale=0.1, seed=99, **options)
    resumed.load_state_dict(saved[1])
    assert (resumed.draws, resumed.seed) == (3, 7)
    take_steps(second, resumed, range(3, 6))
    assert same(bits(second), bits(whole))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_own_vector_resumes_on_a_base_with_or_without_a_state(momentum: float) -> None:
    """Plain SGD keeps nothing, but where training began must be kept."""

    def made(model: nn.Module) -> MergeAware:
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
        return MergeAware(base, scale=0.1, seed=7, offset="own_vector")

    whole, first, second = network(), network(), network()
    take_steps(whole, made(whole), range(6))
    begun = made(first)
    take_steps(first, begun, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = made(second)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    held = [state["merge_aware_origin"].data_ptr() for state in resumed.state.values()]
    assert held == [origin.data_ptr() for origin in resumed._origins.values()], "kept once, not twice"
    take_steps(second, resumed, range(3, 6))
    assert same(bits(second), bits(whole))


def test_own_vector_of_a_parameter_that_is_frozen_at_first() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = MergeAware(adamw(model), scale=0.0, coefficients=[0.25], max_experts=1, offset="own_vector")
    take_steps(model, optimizer, range(1))
    start = model[0].weight.detach().clone()
    model[0].weight.requires_grad_(True)
    take_steps(model, optimizer, range(1, 3))
    trained = model[0].weight.detach().clone()
    assert not torch.equal(trained, start)
    with optimizer.perturbed():
        torch.testing.assert_close(model[0].weight.detach(), start + 0.25 * (trained - start))


@pytest.mark.parametrize("options", MODES)
def test_a_state_is_loaded_at_the_weights_themselves(options: dict[str, Any]) -> None:
    model = network()
    optimizer = MergeAware(adamw(model), scale=0.1, coefficients=[0.5], max_experts=1, **options)
    take_steps(model, optimizer, range(1))
    state, before = copy.deepcopy(optimizer.state_dict()), bits(model)
    optimizer.move()
    assert not same(bits(model), before)
    optimizer.load_state_dict(state)
    assert same(bits(model), before)


def test_a_gradient_that_was_thrown_away_counts_for_no_step() -> None:
    model = network()
    optimizer = MergeAware(adamw(model))
    with optimizer.perturbed():
        loss_of(model, batch()).backward()
    optimizer.zero_grad()
    loss_of(model, batch()).backward()
    with pytest.raises(TrainingError, match="no perturbation since the last step"):
        optimizer.step()
    with optimizer.attached(model):
        optimizer.zero_grad()
        loss = loss_of(model.train(), batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert optimizer.draws == 1


def test_two_parameters_of_one_name_are_refused() -> None:
    """They would have the same noise, and one copy for both."""
    first, second = network(), network()
    base = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    named = [*first.named_parameters(), *second.named_parameters()]
    with pytest.raises(
        TrainingError, match=r"MergeAware: named_parameters: two parameters are named '0.weight'. Give each a name of"
    ):
        MergeAware(base, named_parameters=named)
    prefixed = [(f"{number}.{name}", parameter) for number, (name, parameter) in enumerate(named)]
    before = bits(first) + bits(second)
    with MergeAware(base, named_parameters=prefixed, coefficients=[0.5], max_experts=1).perturbed():
        assert not torch.equal(first[0].weight, before[0])
        assert not torch.equal(first[0].weight, second[0].weight)
    assert same(bits(first) + bits(second), before)


def test_another_optimizers_state_is_refused() -> None:
    model = network()
    plain = adamw(model)
    take_steps(model, plain, range(1))
    with pytest.raises(TrainingError, match=r"optimizer state: was not saved by MergeAware \(it has no noise stream\)"):
        MergeAware(adamw(model)).load_state_dict(plain.state_dict())


def test_closures_schedulers_and_new_groups() -> None:
    model, extra = network(), nn.Parameter(torch.ones(3))
    optimizer = MergeAware(torch.optim.SGD(model.parameters(), lr=1.0), scale=0.1, coefficients=[0.5], max_experts=1)
    optimizer.add_param_group({"params": [extra], "lr": 0.25})
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    before = bits(model)
    seen: list[bool] = []

    def closure() -> torch.Tensor:
        seen.append(torch.equal(extra, torch.ones(3)) or same(bits(model), before))
        optimizer.zero_grad()
        value = loss_of(model, batch()) + extra.sum()
        value.backward()
        return value

    assert optimizer.step(closure) > 0
    scheduler.step()
    assert seen == [False]
    assert extra.tolist() == [0.75] * 3
    assert optimizer.base.param_groups[0]["lr"] == 0.5


def test_attached_moves_training_passes_alone() -> None:
    model = network()
    optimizer = MergeAware(adamw(model), scale=0.1, coefficients=[0.5], max_experts=1)
    before = bits(model)
    with optimizer.attached(model):
        model.train()
        loss_of(model, batch()).backward()
        assert not same(bits(model), before)
        with torch.no_grad():
            loss_of(model, batch())
        assert same(bits(model), before), "an evaluation sees the weights themselves"
        loss_of(model, batch()).backward()
        stored = model.state_dict()
        assert same(list(stored.values()), before), "so does a checkpoint"
        loss_of(model, batch()).backward()
        optimizer.step()
        after = bits(model)
        loss_of(model, batch()).backward()
        assert not same(bits(model), after)
    assert same(bits(model), after)
    assert not model._forward_pre_hooks
    with pytest.raises(TrainingError, match="no perturbation since"):
        optimizer.step()


def test_names_key_the_noise_and_sharing_them_shares_it() -> None:
    moves = []
    for order in (1, -1):
        model = network()
        named = list(model.named_parameters())
        optimizer = MergeAware(
            torch.optim.SGD([parameter for _, parameter in named[::order]], lr=0.1),
            named_parameters=named,
            coefficients=[0.5],
            max_experts=1,
        )
        with optimizer.perturbed():
            moves.append(bits(model))
    assert same(*moves)


@settings(max_examples=30)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    scale=st.floats(1e-8, 1e3),
    constant=st.sampled_from([0.0, 1e-3, -7.0]),
)
def test_regeneration_restores_any_bits(values: list[float], scale: float, constant: float) -> None:
    weights = torch.tensor(values, dtype=torch.float32)
    before = weights.clone()
    kept = NoiseRegeneration(FreshNoise("laplace", 0))
    kept.move(LocalShard(weights, tuple(weights.shape), (0,)), Perturbation(scale, constant), ("w", 0))
    kept.restore()
    assert same([weights], [before])


def test_regeneration_keeps_a_few_percent() -> None:
    weights = 0.02 * torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
    before, plain = weights.clone(), weights.clone()
    kept = NoiseRegeneration(FreshNoise("laplace", 0))
    placement = LocalShard(weights, (300, 1000), (0, 0))
    kept.move(placement, Perturbation(5e-4, 0.0), ("w", 0))
    assert 0 < kept.kept_bytes < 0.1 * weights.nbytes
    assert (weights - plain).std().item() == pytest.approx(5e-4 * math.sqrt(2), rel=0.02)
    kept.restore()
    assert torch.equal(weights, before)
    assert kept.kept_bytes == 0


def test_bfloat16_weights_are_copied_but_not_regenerated() -> None:
    model = network(dtype=torch.bfloat16)
    before = bits(model)
    with MergeAware(adamw(model), scale=0.1).perturbed():
        assert not torch.equal(model[0].weight, before[0])
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    with pytest.raises(TrainingError, match=r"parameter 0.0 is bfloat16, and regeneration needs float32 masters. Load"):
        MergeAware(adamw(model), memory="regenerate")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, r"MergeAware: scale: expected a finite number from 0, found -1.0"),
        ({"location": math.nan}, r"MergeAware: location: expected a finite number, found nan"),
        ({"coefficients": []}, r"MergeAware: coefficients: expected at least one finite number, found \(\)"),
        ({"max_experts": 0}, r"MergeAware: max_experts: expected a whole number from 1, found 0"),
        ({"seed": -1}, r"MergeAware: seed: expected a whole number from 0, found -1"),
        ({"distribution": "cauchy"}, r"unknown distribution 'cauchy'. Use one of: laplace, gaussian."),
        ({"memory": "none"}, r"unknown memory 'none'. Use one of: copy, regenerate."),
        ({"offset": "own_vector", "memory": "regenerate"}, r"offset: own_vector: holds the starting weights anyway"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        MergeAware(adamw(network()), **options)


def test_what_cannot_be_wrapped_is_refused() -> None:
    optimizer = MergeAware(adamw(network()))
    with pytest.raises(TrainingError, match="cannot wrap MergeAware, which decides itself when a step is taken"):
        MergeAware(optimizer)
    with pytest.raises(TrainingError, match="expected an optimizer of torch.optim, found str"):
        MergeAware("adamw")  # type: ignore[arg-type]
    flat = nn.Parameter(torch.ones(2))
    flat._is_flat_param = True  # type: ignore[attr-defined]
    with (
        pytest.raises(TrainingError, match="flattened by FSDP version 1. Use FSDP version 2"),
        MergeAware(torch.optim.SGD([flat], lr=1.0), coefficients=[0.5], max_experts=1).perturbed(),
    ):
        pass


def test_wrapping_again_begins_a_new_stream() -> None:
    model = network()
    base = adamw(model)
    take_steps(model, MergeAware(base, seed=1), range(2))
    again = MergeAware(base, seed=5)
    assert (again.draws, again.seed) == (0, 5)
    again.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert base.param_groups[-1]["merge_aware_seed"] == 5
