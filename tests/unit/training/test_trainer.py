"""The Trainer path against AdamW written out in float64, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import transformers
from transformers import LlamaForCausalLM

from aftermix.config import OptimizerConfig
from aftermix.errors import RunFailedError, TrainingError
from aftermix.training.data.collate import TokenSequence
from aftermix.training.trainer import IGNORED, TrainingRecipe, collate, train_one

CPU = {"device": "cpu", "threads": 1}


def sequences(count: int, length: int = 16, *, seed: int = 0, last: int | None = None) -> list[torch.Tensor]:
    rows = torch.randint(1, 100, (count, length), generator=torch.Generator().manual_seed(seed))
    listed = list(rows)
    if last is not None:
        listed[-1] = listed[-1][:last]
    return listed


def reference_loss(model: LlamaForCausalLM, batch: list[torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood of every token but the first of its sequence, one sequence at a time."""
    terms = []
    for row in batch:
        log_p = torch.log_softmax(model(input_ids=row[None], use_cache=False).logits[0], dim=-1)
        terms += [-log_p[position - 1, row[position]] for position in range(1, len(row))]
    return torch.stack(terms).mean()


def reference_training(
    model: LlamaForCausalLM, batches: list[list[torch.Tensor]], recipe: TrainingRecipe
) -> list[float]:
    """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2) in float64 with the schedule written out."""
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    losses = []
    for step, batch in enumerate(batches):
        model.zero_grad()
        loss = reference_loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
        clip = min(1.0, recipe.max_grad_norm / (norm + 1e-6))
        cosine = 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        rate = recipe.learning_rate * (recipe.min_lr_rate + (1 - recipe.min_lr_rate) * cosine)
        if recipe.schedule == "constant":
            rate = recipe.learning_rate
        with torch.no_grad():
            for name, p in model.named_parameters():
                gradient = p.grad * clip
                decay = recipe.weight_decay if p.ndim >= 2 else 0.0
                first[name] = recipe.betas[0] * first[name] + (1 - recipe.betas[0]) * gradient
                second[name] = recipe.betas[1] * second[name] + (1 - recipe.betas[1]) * gradient**2
                mean = first[name] / (1 - recipe.betas[0] ** (step + 1))
                spread = (second[name] / (1 - recipe.betas[1] ** (step + 1))).sqrt()
                p -= rate * (mean / (spread + 1e-8) + decay * p)
    return losses


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_three_steps_equal_adamw_written_out(model: LlamaForCausalLM, schedule: str) -> None:
    rows = sequences(10, last=7)
    recipe = TrainingRecipe(batch_size=4, learning_rate=1e-3, schedule=schedule, max_grad_norm=0.1, min_lr_rate=0.1)
    twin = copy.deepcopy(model).double()
    losses = reference_training(twin, [rows[0:4], rows[4:8], rows[8:10]], recipe)
    done = train_one(model, rows, recipe=recipe, **CPU)
    assert done.losses == pytest.approx(losses, abs=2e-6)
    expected = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        # A step moves a weight by up to the learning rate, so 1e-3 of it is what float32 gradients can be off.
        torch.testing.assert_close(parameter.double(), expected[name], atol=3e-6, rtol=0, msg=name)


def test_one_full_pass_is_in_the_order_given(model: LlamaForCausalLM) -> None:
    rows = sequences(6)
    with torch.no_grad():
        expected = [reference_loss(model, rows[start : start + 2]).item() for start in (0, 2, 4)]
    frozen_in_place = TrainingRecipe(batch_size=2, learning_rate=1e-12, weight_decay=0.0)
    assert train_one(model, rows, recipe=frozen_in_place, **CPU).losses == pytest.approx(expected, abs=1e-6)


def test_same_start_same_bits_and_the_loss_falls(model: LlamaForCausalLM) -> None:
    rows = sequences(4) * 10
    recipe = TrainingRecipe(batch_size=4, learning_rate=1e-2, warmup_steps=1)
    runs = [copy.deepcopy(model) for _ in range(2)]
    done = [train_one(run, rows, recipe=recipe, **CPU) for run in runs]
    assert done[0].losses == done[1].losses
    for ours, again in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(ours, again)
    assert done[0].final_loss == pytest.approx(sum(done[0].losses[-10:]) / 10)
    assert done[0].losses[-1] < done[0].losses[0] - 1


def test_frozen_parameters_keep_their_bits(model: LlamaForCausalLM) -> None:
    model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_one(model, sequences(8), recipe=TrainingRecipe(batch_size=4, learning_rate=1e-2), **CPU)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before) - {"model.embed_tokens.weight"}


def test_half_precision_models_get_float32_masters(model: LlamaForCausalLM) -> None:
    model.to(torch.bfloat16)
    train_one(model, sequences(4), recipe=TrainingRecipe(batch_size=4, learning_rate=1e-6), **CPU)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    norm = model.model.norm.weight
    assert ((norm - 1).abs() > 1e-8).any(), "a step below bfloat16's resolution must not be lost"


def test_short_sequences_are_filled_behind_their_end() -> None:
    batch = collate([torch.tensor([5, 6, 7]), torch.tensor([8])])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, IGNORED, IGNORED]]


@pytest.mark.usefixtures("shown")
def test_leaves_nothing_behind_and_says_one_line(
    model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scratch = tmp_path / "scratch"
    work = tmp_path / "work"
    scratch.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    cache, verbosity, threads = model.config.use_cache, transformers.logging.get_verbosity(), torch.get_num_threads()
    train_one(
        model,
        sequences(8),
        recipe=TrainingRecipe(batch_size=4, learning_rate=1e-3),
        device="cpu",
        threads=2,
        label="ja",
    )
    assert [*work.iterdir(), *scratch.iterdir()] == []
    assert (model.config.use_cache, transformers.logging.get_verbosity()) == (cache, verbosity)
    assert torch.get_num_threads() == threads
    assert not model.training
    out, err = capfd.readouterr()
    assert out == ""
    assert {line.split(":")[0] for line in err.replace("\r", "\n").splitlines() if line} == {"ja"}
    assert "2/2" in err
    assert "loss=" in err


def test_a_loss_that_is_no_number_stops_the_run(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.model.norm.weight[3] = math.nan
    with pytest.raises(RunFailedError, match=r"ja, step 1: the loss is nan. Lower the learning rate, and check base"):
        train_one(model, sequences(4), recipe=TrainingRecipe(batch_size=4, learning_rate=1e-3), label="ja", **CPU)


def test_refused_before_the_first_step(model: LlamaForCausalLM) -> None:
    with pytest.raises(
        TrainingError, match=r"train.schedule: unknown schedule 'linear'. Use one of: cosine, constant, wsd."
    ):
        TrainingRecipe(batch_size=4, learning_rate=1e-3, schedule="linear")
    too_long = TrainingRecipe(batch_size=4, learning_rate=1e-3, warmup_steps=2)
    with pytest.raises(
        TrainingError, match=r"train.warmup_steps: 2 steps of warm-up, but the run has 2 steps. Lower it"
    ):
        train_one(model, sequences(8), recipe=too_long, **CPU)
    plain = TrainingRecipe(batch_size=4, learning_rate=1e-3)
    with pytest.raises(TrainingError, match=r"train.device: cannot train on 'cuda:3'.*CUDA_VISIBLE_DEVICES"):
        train_one(model, sequences(8), recipe=plain, device="cuda:3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(model: LlamaForCausalLM) -> None:
    with pytest.raises(TrainingError, match=r"'cuda' is not available here. Use auto or cpu."):
        train_one(model, sequences(8), recipe=TrainingRecipe(batch_size=4, learning_rate=1e-3), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_bits_on_a_gpu(model: LlamaForCausalLM) -> None:
    runs = [copy.deepcopy(model) for _ in range(2)]
    recipe = TrainingRecipe(batch_size=4, learning_rate=1e-2)
    done = [train_one(run, sequences(40), recipe=recipe) for run in runs]
    assert done[0].device == "cuda"
    for ours, again in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(ours, again)


def without_labels(row: torch.Tensor) -> TokenSequence:
    return TokenSequence(row, torch.full_like(row, IGNORED))


@pytest.mark.parametrize("optimizer", ["adamw", "merge_aware", "sam", "asam"])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (4, 1), (4, 2), (8, 4)])
def test_a_step_without_a_label_has_loss_0_and_stops_nothing(
    model: LlamaForCausalLM, optimizer: str, batch_size: int, accumulation: int
) -> None:
    rows = sequences(3 * batch_size)
    mixed = [*rows[:batch_size], *map(without_labels, rows[batch_size : 2 * batch_size]), *rows[2 * batch_size :]]
    recipe = TrainingRecipe(
        batch_size=batch_size,
        accumulation=accumulation,
        learning_rate=1e-3,
        optimizer=OptimizerConfig(name=optimizer),  # type: ignore[arg-type]
    )
    losses = train_one(model, mixed, recipe=recipe, **CPU).losses
    assert losses[1] == 0
    assert 4 < losses[2] < 6
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_step_without_a_label_has_a_gradient_of_0(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a model that takes the mean over a batch by itself."""
    before = [p.detach().clone() for p in model.parameters()]
    recipe = TrainingRecipe(batch_size=2, learning_rate=1e-2, weight_decay=0.0)
    for accepts in (True, False):
        monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", accepts, raising=False)
        assert train_one(model, [*map(without_labels, sequences(4))], recipe=recipe, **CPU).losses == [0, 0]
        assert all(torch.equal(ours, was) for ours, was in zip(model.parameters(), before, strict=True))


def test_labels_beside_sequences_without_one_count_as_if_alone(model: LlamaForCausalLM) -> None:
    rows, twin = sequences(4), copy.deepcopy(model)
    recipe = TrainingRecipe(batch_size=4, learning_rate=1e-3)
    mixed = [rows[0], *map(without_labels, rows[1:])]
    alone = TrainingRecipe(batch_size=1, learning_rate=1e-3)
    assert train_one(model, mixed, recipe=recipe, **CPU).losses == pytest.approx(
        train_one(twin, rows[:1], recipe=alone, **CPU).losses, abs=1e-6
    )


def test_a_last_sequence_of_one_token_stops_nothing(model: LlamaForCausalLM) -> None:
    rows = sequences(3, last=1)
    assert train_one(model, rows, recipe=TrainingRecipe(batch_size=2, learning_rate=1e-3), **CPU).losses[1] == 0
