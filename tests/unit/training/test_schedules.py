"""Learning rates as the formulas give them, through a whole run; batches shared out; accumulation and precision."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, get_scheduler

from aftermix.config import OptimizerConfig
from aftermix.errors import AftermixError, TrainingError
from aftermix.training import loop
from aftermix.training.batch_sampler import FILLER, StepBatches
from aftermix.training.loop import collate_indexed
from aftermix.training.optimizers import SAM
from aftermix.training.schedules import SCHEDULES, build_schedule_options, compute_mean_factor
from aftermix.training.trainer import IGNORED, TrainingRecipe, train_one

CPU: dict[str, Any] = {"device": "cpu", "threads": 1}


def rows(count: int, *, length: int = 16, last: int | None = None) -> list[torch.Tensor]:
    found = list(torch.randint(1, 100, (count, length), generator=torch.Generator().manual_seed(0)))
    if last is not None:
        found[-1] = found[-1][:last]
    return found


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each step, read when the optimizer is about to step."""
    found: list[float] = []

    def seen(self: Any, *_: Any, optimizer: Any, **__: Any) -> None:
        found.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(loop.StepRecorder, "on_pre_optimizer_step", seen)
    return found


def expected_rate(step: int, steps: int, recipe: TrainingRecipe) -> float:
    """The factor on the peak, written out from the definition."""
    low, warm = recipe.min_lr_rate, recipe.warmup_steps
    if step < warm:
        start = low if recipe.schedule == "wsd" else 0.0
        return start + (1 - start) * step / warm
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "cosine":
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
    decay = max(1, round(steps * recipe.decay_share))
    if step < steps - decay:
        return 1.0
    p = (step - (steps - decay)) / decay
    shape = {"linear": 1 - p, "cosine": 0.5 * (1 + math.cos(math.pi * p)), "1-sqrt": 1 - math.sqrt(p)}
    return low + (1 - low) * shape[recipe.decay_shape]


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "constant", "warmup_steps": 3},
        {"schedule": "cosine", "warmup_steps": 2},
        {"schedule": "wsd", "warmup_steps": 3, "decay_share": 0.4, "decay_shape": "linear"},
        {"schedule": "wsd", "decay_share": 0.5, "decay_shape": "cosine", "min_lr_rate": 0.0},
        {"schedule": "wsd", "decay_share": 0.3, "min_lr_rate": 0.1},
    ],
)
def test_rates_of_a_whole_run(model: LlamaForCausalLM, rates: list[float], options: dict[str, Any]) -> None:
    recipe = TrainingRecipe(batch_size=1, learning_rate=1e-3, **options)
    train_one(model, rows(10, length=4), recipe=recipe, **CPU)
    assert rates == pytest.approx([1e-3 * expected_rate(step, 10, recipe) for step in range(10)], rel=1e-12)


def test_schedules_that_do_not_fit_are_refused(make_config: Any) -> None:
    wsd = TrainingRecipe(batch_size=1, learning_rate=1e-3, schedule="wsd", warmup_steps=6, decay_share=0.5)
    with pytest.raises(
        TrainingError,
        match=r"train.decay_share: 6 steps of warm-up and 5 of decay, but the run has 10 steps. Lower it or `warmup_st",
    ):
        wsd.count_steps(10)
    assert wsd.count_steps(12) == 12
    with pytest.raises(AftermixError, match=r"'decay_share' is an option of `schedule: wsd`, found `schedule: cosine`"):
        make_config(decay_share=0.2)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_every_sequence_is_in_one_micro_batch_of_its_step(
    sequences: int, micro_batch_size: int, accumulation: int, processes: int
) -> None:
    batch_size = micro_batch_size * accumulation * processes
    shared = [
        list(
            StepBatches(
                sequences=sequences,
                batch_size=batch_size,
                accumulation=accumulation,
                processes=processes,
                process=process,
            )
        )
        for process in range(processes)
    ]
    steps = math.ceil(sequences / batch_size)
    assert [len(batches) for batches in shared] == [steps * accumulation] * processes
    for step in range(steps):
        own = [each for batches in shared for each in batches[step * accumulation : (step + 1) * accumulation]]
        taken = [index for batch in own for index in batch if index != FILLER]
        assert taken == list(range(step * batch_size, min((step + 1) * batch_size, sequences)))
        assert all(1 <= len(batch) <= micro_batch_size for batch in own)


def test_a_filler_has_no_label() -> None:
    batch = collate_indexed([(FILLER, torch.tensor([5, 6, 7]))])
    assert batch["input_ids"].tolist() == [[5, 6, 7]]
    assert batch["labels"].tolist() == [[IGNORED] * 3]


@pytest.mark.parametrize("name", ["adamw", "merge_aware", "sgd"])
@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_equals_unaccumulated(model: LlamaForCausalLM, name: Any, accumulation: int) -> None:
    """Weighted by tokens: sequences have several lengths, and the last step has fewer than micro-batches."""
    data = [row[: 4 + 3 * (number % 5)] for number, row in enumerate(rows(13))]
    recipe = {"batch_size": 4, "learning_rate": 1e-3, "max_grad_norm": 0.1, "optimizer": OptimizerConfig(name=name)}
    whole, parts = copy.deepcopy(model), copy.deepcopy(model)
    one = train_one(whole, data, recipe=TrainingRecipe(**recipe), **CPU)
    several = train_one(parts, data, recipe=TrainingRecipe(accumulation=accumulation, **recipe), **CPU)
    assert len(one.losses) == len(several.losses) == 4
    assert several.losses == pytest.approx(one.losses, abs=3e-6)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_batches_that_cannot_be_shared_out_are_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(
        TrainingError,
        match=r"train.batch_size: 4 sequences cannot be shared out evenly over 1 processes with 3 micro-batches each. "
        r"Use a multiple of 3, or lower `accumulation`.",
    ):
        train_one(model, rows(4), recipe=TrainingRecipe(batch_size=4, learning_rate=1e-3, accumulation=3), **CPU)


def test_ascents_of_micro_batches_on_several_processes_are_refused(model: LlamaForCausalLM) -> None:
    trainer = loop.PackedTrainer.__new__(loop.PackedTrainer)
    trainer.batches = StepBatches(sequences=4, batch_size=4, accumulation=2, processes=2)
    trainer.sharpness_aware = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(
        TrainingError, match=r"train.accumulation: sam and asam ascend along each micro-batch's gradient"
    ):
        trainer._refuse_split_ascents()
    trainer.batches = StepBatches(sequences=4, batch_size=4, accumulation=2)
    trainer._refuse_split_ascents()


def test_a_model_that_cannot_weigh_micro_batches_is_refused(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    with pytest.raises(
        TrainingError, match=r"train.accumulation: LlamaForCausalLM cannot weigh the tokens of a step's"
    ):
        train_one(model, rows(4), recipe=TrainingRecipe(batch_size=4, learning_rate=1e-3, accumulation=2), **CPU)
    train_one(model, rows(4), recipe=TrainingRecipe(batch_size=4, learning_rate=1e-3), **CPU)


def test_bfloat16_computes_in_half_and_keeps_float32_masters(model: LlamaForCausalLM) -> None:
    kinds = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _, __, output: kinds.append(output.dtype))
    recipe = {"batch_size": 2, "learning_rate": 1e-6}
    exact = train_one(copy.deepcopy(model), rows(4), recipe=TrainingRecipe(precision="float32", **recipe), **CPU)
    kinds.clear()
    before = model.model.norm.weight.detach().clone()
    half = train_one(model, rows(4), recipe=TrainingRecipe(precision="bfloat16", **recipe), **CPU)
    assert set(kinds) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.equal(model.model.norm.weight, before), "a step below bfloat16's resolution must not be lost"
    assert half.losses != exact.losses
    assert half.losses == pytest.approx(exact.losses, abs=0.03)


@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
@pytest.mark.parametrize(("schedule", "shape"), [("constant", "linear"), ("cosine", "linear"), ("wsd", "linear")])
def test_the_mean_factor_is_that_of_the_schedulers_own_rates(schedule: str, shape: str, warmup_steps: int) -> None:
    assert_mean_factor(schedule, shape, warmup_steps)


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
def test_the_mean_factor_follows_each_shape_of_the_decay(shape: str) -> None:
    assert_mean_factor("wsd", shape, 3)


def assert_mean_factor(schedule: str, shape: str, warmup_steps: int, *, steps: int = 40, least: float = 0.2) -> None:
    options = build_schedule_options(schedule, steps=steps, min_lr_rate=least, decay_share=0.3, decay_shape=shape)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        SCHEDULES[schedule],
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=steps,
        scheduler_specific_kwargs=options,
    )
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    found = compute_mean_factor(
        schedule, steps=steps, warmup_steps=warmup_steps, min_lr_rate=least, decay_share=0.3, decay_shape=shape
    )
    assert found == pytest.approx(sum(rates) / steps, abs=1e-12)
