"""The optimizers through the real Trainer: where the gradient is taken, accumulation, clipping, resuming."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from aftermix.config import Config, OptimizerConfig
from aftermix.errors import AftermixError
from aftermix.training import SAM, MergeAware
from aftermix.training.optimizers import build as making
from aftermix.training.trainer import TrainingRecipe, make_optimizer, train_one

CPU = {"device": "cpu", "threads": 1}
NAMES = ["merge_aware", "sam", "asam"]
OWN = {"merge_aware": {"scale": 0.02}, "sam": {"rho": 0.1}, "asam": {}}


def rows(count: int) -> list[torch.Tensor]:
    return list(torch.randint(1, 100, (count, 12), generator=torch.Generator().manual_seed(0)))


def recipe(name: str = "adamw", *, learning_rate: float = 1e-2, **options: Any) -> TrainingRecipe:
    return TrainingRecipe(
        batch_size=4, learning_rate=learning_rate, schedule="constant", optimizer=OptimizerConfig(name=name, **options)
    )


def equal(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))


def loss_of(model: LlamaForCausalLM, batch: list[torch.Tensor]) -> torch.Tensor:
    ids = torch.stack(batch)
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def loop_written_out(model: LlamaForCausalLM, data: list[torch.Tensor], used: TrainingRecipe) -> None:
    """The same steps without the Trainer and without hooks: move, gradient, restore, clip, AdamW."""
    model.train()
    optimizer: Any = make_optimizer(model, used, fused=True)
    parameters = list(model.parameters())
    for start in range(0, len(data), 4):
        batch = data[start : start + 4]
        optimizer.base.zero_grad()
        if isinstance(optimizer, SAM):
            loss_of(model, batch).backward()
        kept = [p.detach().clone() for p in parameters]
        optimizer.move()
        loss_of(model, batch).backward()
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data.copy_(value)
        torch.nn.utils.clip_grad_norm_(parameters, used.max_grad_norm)
        optimizer.base.step()
        optimizer._is_moved = False
        if isinstance(optimizer, MergeAware):
            for group in optimizer.param_groups:
                group["merge_aware_draws"] += 1


@pytest.mark.parametrize("name", NAMES)
def test_training_equals_the_loop_written_out(model: LlamaForCausalLM, name: str) -> None:
    twin, plain = copy.deepcopy(model), copy.deepcopy(model)
    used = recipe(name, **OWN[name])
    loop_written_out(twin, rows(12), used)
    train_one(model, rows(12), recipe=used, **CPU)
    train_one(plain, rows(12), recipe=recipe(), **CPU)
    assert equal(model, twin)
    assert not equal(model, plain), "an optimizer that does nothing would be AdamW to the bit"


def test_scale_zero_is_adamw_to_the_bit(model: LlamaForCausalLM) -> None:
    twin = copy.deepcopy(model)
    train_one(model, rows(12), recipe=recipe("merge_aware", scale=0.0), **CPU)
    train_one(twin, rows(12), recipe=recipe(), **CPU)
    assert equal(model, twin)


@pytest.mark.parametrize("options", [{"memory": "regenerate"}, {"base": "sgd", "momentum": 0.9}, {"noise": "table"}])
def test_options_reach_the_optimizer(model: LlamaForCausalLM, options: dict[str, Any]) -> None:
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    used = recipe("merge_aware", scale=0.02, **options)
    train_one(model, rows(8), recipe=used, **CPU)
    loop_written_out(twin, rows(8), used)
    train_one(other, rows(8), recipe=recipe("merge_aware", scale=0.02), **CPU)
    assert equal(model, twin)
    assert equal(model, other) == ("memory" in options), "regeneration changes memory, and nothing else"


class Twice(nn.Module):
    """A float64 model that gives the Trainer its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def forward(self, rows: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.inner(rows) - labels).square().mean()}


def numbers(count: int) -> list[dict[str, torch.Tensor]]:
    drawn = torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [{"rows": row[:3], "labels": row[3:]} for row in drawn]


def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, data: Any, folder: Path, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
    }
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, seed=3, **settings | options
    )
    return Trainer(model=model, args=arguments, train_dataset=data, optimizers=(optimizer, None))


def test_the_trainers_gradient_is_the_one_at_the_moved_weights(tmp_path: Path) -> None:
    """Finite differences in float64, with accumulation: one move for both micro-batches, none at the step."""
    model, data = Twice(), numbers(4)
    optimizer = MergeAware(
        torch.optim.SGD(model.parameters(), lr=0.1), scale=0.1, coefficients=[0.5], max_experts=1, seed=5
    )
    before = copy.deepcopy(model)
    seen: list[list[torch.Tensor]] = []

    def at_the_step(*_: Any) -> None:
        assert equal(model, before), "restored before the base step"
        seen.append([p.grad.clone() for p in model.parameters()])

    optimizer.base.register_step_pre_hook(at_the_step)
    with optimizer.attached(model):
        trainer(model, optimizer, data, tmp_path, gradient_accumulation_steps=2, num_train_epochs=1).train()
    assert len(seen) == 1
    moved = copy.deepcopy(before)
    with MergeAware(
        torch.optim.SGD(moved.parameters(), lr=0.1), scale=0.1, coefficients=[0.5], max_experts=1, seed=5
    ).perturbed():
        whole = {key: torch.stack([row[key] for row in data]) for key in data[0]}
        for parameter, found in zip(moved.parameters(), seen[0], strict=True):
            flat = parameter.data.view(-1)
            for index in range(flat.numel()):
                value = flat[index].item()
                losses = []
                for side in (1e-6, -1e-6):
                    flat[index] = value + side
                    losses.append(moved(**whole)["loss"].item())
                flat[index] = value
                assert found.view(-1)[index].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_an_error_in_the_trainer_restores_the_weights(tmp_path: Path) -> None:
    model = Twice()
    before = copy.deepcopy(model)
    optimizer = MergeAware(torch.optim.SGD(model.parameters(), lr=0.1), scale=0.1, coefficients=[0.5], max_experts=1)

    def fail(_: torch.Tensor) -> None:
        assert not equal(model, before)
        raise RuntimeError("lost")

    model.inner[2].weight.register_hook(fail)
    run = trainer(model, optimizer, numbers(4), tmp_path)
    with pytest.raises(RuntimeError, match="lost"), optimizer.attached(model):
        run.train()
    assert equal(model, before)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_resume_equals_the_uninterrupted_run(tmp_path: Path, precision: dict[str, Any]) -> None:
    """Through the Trainer's own checkpoints, with accumulation, clipping and, once, mixed precision."""

    def run(folder: Path, *, steps: int, resume: str | None = None, seed: int = 0) -> nn.Module:
        model = Twice().float()
        data = [{key: value.float() for key, value in row.items()} for row in numbers(16)]
        optimizer = MergeAware(torch.optim.AdamW(model.parameters(), lr=1e-2), scale=0.05, seed=seed)
        options = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5, "save_strategy": "steps", "save_steps": 2}
        whole = trainer(model, optimizer, data, folder, max_steps=steps, **options, **precision)
        with optimizer.attached(model):
            whole.train(resume_from_checkpoint=resume)
        assert optimizer.draws == steps
        return model

    uninterrupted = run(tmp_path / "whole", steps=4)
    run(tmp_path / "part", steps=2)
    resumed = run(tmp_path / "part", steps=4, resume=str(tmp_path / "part" / "checkpoint-2"), seed=99)
    assert equal(uninterrupted, resumed)


@pytest.mark.parametrize("name", ["sgd", *NAMES])
def test_an_expert_by_name_in_the_training_file(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from aftermix.jobs.train import command as job

    made: list[OptimizerConfig] = []
    monkeypatch.setattr(
        "aftermix.training.trainer.make_optimizer",
        lambda model, used, **options: made.append(used.optimizer) or making.make_optimizer(model, used, **options),
    )
    datasets = {"cats": {"data": str(tmp_path / "corpus.jsonl"), "tokens": 256}}
    config = make_config(optimizer=name, learning_rate=1e-3, datasets=datasets)
    folder = job.train(config, tmp_path / "out")["cats"]
    assert made == [OptimizerConfig(name=name)]
    assert f'"name": "{name}"' in (folder / "train.json").read_text()
    said: list[str] = []
    job.train(config, tmp_path / "out", log=said.append)
    assert "reused" in said[0]
    with pytest.raises(AftermixError, match="holds an expert of another recipe"):
        job.train(make_config(optimizer="adamw", learning_rate=1e-3, datasets=datasets), tmp_path / "out")


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "adamw", "scale": 1e-3}, r"'scale' is no option of adamw, which takes: no options. See docs"),
        ({"name": "sam", "scale": 1e-3}, r"'scale' is no option of sam, which takes: base, momentum, rho"),
        ({"name": "merge_aware", "momentum": 0.9}, r"'momentum' is an option of sgd; add `base: sgd` or remove it"),
        ({"name": "merge_aware", "offset": "own_vector", "memory": "regenerate"}, r"use `memory: copy`"),
        ({"name": "merge_aware", "densty": 1}, r"densty: is not a known key. This section takes: name, base, momentum"),
        ({"name": "merge_aware", "scale": "auto"}, r"'scale: auto' and 'pilot' go together"),
        ({"name": "merge_aware", "pilot": "models/a"}, r"'scale: auto' and 'pilot' go together"),
        ("lion", r"train.optimizer.name: Input should be 'adamw', 'sgd', 'merge_aware', 'sam' or 'asam'"),
    ],
)
def test_options_of_another_optimizer_are_refused(
    make_config: Callable[..., Config], optimizer: Any, message: str
) -> None:
    with pytest.raises(AftermixError, match=message):
        make_config(optimizer=optimizer)


def test_scale_auto_is_the_pilots_mean_absolute_deviation(
    make_config: Callable[..., Config], tmp_path: Path, base_folder: Path
) -> None:
    from aftermix.jobs.train import command as job

    datasets = {"cats": {"data": str(tmp_path / "corpus.jsonl"), "tokens": 256}}
    pilot = job.train(make_config(datasets=datasets, vector="none"), tmp_path / "pilot")["cats"]
    entries = []
    base, expert = (load_file(folder / "model.safetensors") for folder in (base_folder, pilot))
    for name, tensor in base.items():
        entries.append((expert[name].float() - tensor.float()).flatten())
    vector = torch.cat(entries).double()
    said: list[str] = []
    automatic = {"name": "merge_aware", "scale": "auto", "pilot": str(pilot)}
    folder = job.train(make_config(datasets=datasets, optimizer=automatic), tmp_path / "out", log=said.append)["cats"]
    recorded = json.loads((folder / "train.json").read_text())["recipe"]["optimizer"]
    assert recorded["scale"] == pytest.approx((vector - vector.median()).abs().mean().item(), rel=1e-4)
    assert said[0].startswith("scale ")
    with pytest.raises(AftermixError, match=r"train.optimizer.pilot: .* equals the base, so its vector has no scale"):
        job.train(make_config(datasets=datasets, optimizer=automatic | {"pilot": str(base_folder)}), tmp_path / "other")
