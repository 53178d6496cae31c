"""One of two gloo processes: trains sharded (FSDP2) and unsharded, and fails where the two differ.

Run by test_optimizers_sharded.py as `python sharded_process.py RANK STORE`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict as distributed
from torch.distributed.fsdp import fully_shard

from aftermix.training import ASAM, SAM, MergeAware

WIDTH = 7
"""Odd, so that the two shards of a matrix have different numbers of rows, and one row of `(1,)` has an empty shard."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5000, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def shard(model: nn.Sequential) -> nn.Sequential:
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def optimizer_of(kind: str, model: nn.Module) -> Any:
    named = list(model.named_parameters())
    base = torch.optim.AdamW([parameter for _, parameter in named], lr=1e-2)
    if kind in ("sam", "asam"):
        return SAM(base) if kind == "sam" else ASAM(base)
    options: dict[str, dict[str, Any]] = {"regenerate": {"memory": "regenerate"}, "own": {"offset": "own_vector"}}
    return MergeAware(base, scale=0.05, seed=3, named_parameters=named, **options.get(kind, {}))


def sharded(kind: str) -> tuple[nn.Module, Any]:
    """Model and optimizer; for `own` the optimizer is made first and given the shards later, as Accelerate does it."""
    model = network()
    if kind != "own":
        return shard(model), optimizer_of(kind, model)
    optimizer, whole_parameters = optimizer_of(kind, model), list(model.parameters())
    shards = dict(zip(map(id, whole_parameters), shard(model).parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [shards[id(parameter)] for parameter in group["params"]]
    return model, optimizer


def batch(step: int, micro: int) -> torch.Tensor:
    return torch.randn(4, 5000, generator=torch.Generator().manual_seed(10 * step + micro))


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    """Both processes see the same batches, so that the mean of their gradients is the gradient to the bit."""
    for step in steps:
        optimizer.zero_grad()
        if isinstance(optimizer, SAM):
            for micro in range(2):
                optimizer.gradient_of(lambda s=step, m=micro: model(batch(s, m)).square().mean().backward())
            optimizer.step()
            continue
        with optimizer.attached(model):
            for micro in range(2):
                model(batch(step, micro)).square().mean().backward()
            optimizer.step()


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach()
        for name, value in model.named_parameters()
    }


def assert_same(ours: nn.Module, theirs: nn.Module, *, kind: str, exact: bool) -> None:
    for (name, one), other in zip(whole(ours).items(), whole(theirs).values(), strict=True):
        # SAM's norm is summed shard by shard, in another order.
        torch.testing.assert_close(one, other, rtol=0, atol=0 if exact else 1e-5, msg=f"{kind}: {name} differs")


def resumed(kind: str, model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """Model and optimizer through a distributed checkpoint's state dicts."""
    weights = distributed.get_model_state_dict(model)
    state = distributed.get_optimizer_state_dict(model, optimizer)
    again = shard(network())
    restored = optimizer_of(kind, again)
    distributed.set_model_state_dict(again, weights)
    distributed.set_optimizer_state_dict(again, restored, state)
    return again, restored


def main(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for kind in ("copy", "regenerate", "own", "sam", "asam"):
        plain = network()
        theirs = optimizer_of(kind, plain)
        model, ours = sharded(kind)
        train(plain, theirs, range(2))
        train(model, ours, range(2))
        assert_same(model, plain, kind=kind, exact="sam" not in kind)
        again, restored = resumed(kind, model, ours)
        train(plain, theirs, range(2, 4))
        train(again, restored, range(2, 4))
        assert_same(again, plain, kind=f"{kind}, resumed", exact="sam" not in kind)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
    os._exit(0)  # all is asserted; under load, gloo's threads now and then abort the interpreter's own way out
