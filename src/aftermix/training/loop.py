"""The Trainer's loop on our batches: every step's loss kept, resume points of our own, weights moved where asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from aftermix.errors import RunFailedError, TrainingError
from aftermix.progress import open_bar
from aftermix.training.batch_sampler import FILLER, StepBatches
from aftermix.training.data.collate import IGNORED, collate
from aftermix.training.distributed.processes import read_process_index
from aftermix.training.held_out.curve import HeldOutCurve, HeldOutPoint
from aftermix.training.optimizers import SAM
from aftermix.training.resuming import ResumePoints, StepsDone

TIMED_STEPS = 3
"""Batches by whose time the number of threads is chosen."""
AfterStep = Callable[[int, Sequence[float]], None]
"""Called after each step, on every process, with its number (from 1) and the losses so far."""


@dataclass
class IndexedSequences(torch.utils.data.Dataset[tuple[int, Any]]):
    """The sequences with their index; `FILLER` is the first sequence, to be stripped of its labels."""

    sequences: Sequence[Any]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.sequences[max(index, 0)]


def collate_indexed(rows: list[tuple[int, Any]]) -> dict[str, torch.Tensor]:
    """One batch of :class:`IndexedSequences`'s rows."""
    batch = collate([sequence for _, sequence in rows])
    if rows[0][0] == FILLER:
        batch["labels"].fill_(IGNORED)
    return batch


class PackedTrainer(Trainer):
    """Trainer that takes sequences in order and hands every step's loss to a recorder."""

    sequences: IndexedSequences
    batches: StepBatches
    recorder: StepRecorder
    sharpness_aware: SAM | None
    resume_points: ResumePoints | None
    started: float

    def get_train_dataloader(self) -> Any:
        self._refuse_means_of_means()
        self._refuse_split_ascents()
        return DataLoader(
            self.sequences,
            batch_sampler=self.batches,
            collate_fn=collate_indexed,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _refuse_means_of_means(self) -> None:
        """A step's loss is a mean over its tokens, so a model must be told how many there are in the whole step."""
        if self.batches.parts > 1 and not self.model_accepts_loss_kwargs:
            kind = type(self.accelerator.unwrap_model(self.model)).__name__
            found = f"{kind} cannot weigh the tokens of a step's micro-batches (no `num_items_in_batch` in its loss)"
            raise TrainingError("train.accumulation", found, "Use 1, on one process.")

    def _refuse_split_ascents(self) -> None:
        """Processes share their gradients at a step's last micro-batch, too late for the ascents before it."""
        if self.sharpness_aware is not None and self.batches.processes > 1 and self.batches.accumulation > 1:
            found = "sam and asam ascend along each micro-batch's gradient, which several processes do not share"
            raise TrainingError("train.accumulation", found, "Use 1, or one process.")

    def list_timed_steps(self) -> list[Callable[[], None]]:
        """Forward and backward passes of the first batches, to be run for their time: they leave the model as it is."""
        batches = list(islice(iter(self.batches), TIMED_STEPS))
        rows = [[self.sequences[index] for index in batch] for batch in batches]
        return [partial(self._run_for_time, collate_indexed(row)) for row in rows]

    def _run_for_time(self, inputs: dict[str, torch.Tensor]) -> None:
        model: Any = self.model
        with torch.random.fork_rng(devices=[]):  # of dropout
            model.train()
            self.compute_loss(model, inputs).backward()
        model.zero_grad(set_to_none=True)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of a step and the number of its labels, at least 1.

        A step without a label then has loss 0 and a gradient of 0, where a mean over nothing would be no number.
        """
        samples, labels = super().get_batch_samples(*args, **kwargs)
        return samples, labels.clamp(min=1) if isinstance(labels, torch.Tensor) else labels

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss; 0 for a batch without a label of a model that takes the mean by itself."""
        if self.model_accepts_loss_kwargs or bool((inputs["labels"][:, 1:] != IGNORED).any()):
            return super().compute_loss(model, inputs, *args, **kwargs)
        unlabelled = {name: value for name, value in inputs.items() if name != "labels"}
        return model(**unlabelled).logits.sum() * 0.0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        one_pass = partial(super().training_step, *args, **kwargs)
        loss: torch.Tensor = self.sharpness_aware.gradient_of(one_pass) if self.sharpness_aware else one_pass()

        if self.recorder.add(loss) == self.batches.accumulation:
            self.recorder.record(float(self.accelerator.reduce(self.recorder.sum, "mean")))
        return loss

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002 - the Trainer's signature
        return 0  # walks all modules at every step for a figure that nobody reads

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = int(self.state.global_step)
        if self.resume_points is None or step == self.batches.steps:
            return  # the expert itself comes next

        try:
            super()._save_checkpoint(model, trial)
            seconds, threads = time.perf_counter() - self.started, torch.get_num_threads()
            done = StepsDone(self.recorder.losses, seconds, threads, self.recorder.list_points())
            self.resume_points.finish(step, done)
        except Exception as error:  # torch and safetensors each have their own for a disk that is full
            raise self.resume_points.give_up(step, error) from error

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """The weights as the model has them; `save_pretrained` may rename them, and the Trainer would not find them."""
        if self.args.should_save and output_dir is not None and not self.is_fsdp_enabled:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_model(self.accelerator.unwrap_model(self.model), str(Path(output_dir) / "model.safetensors"))


@dataclass
class StepRecorder(TrainerCallback):
    """Keeps the losses, shows them on one bar, and stops at the first that is not a number."""

    label: str
    total: int
    losses: list[float] = field(default_factory=list)
    """Of the steps before an interruption, and then of each step."""
    after_step: AfterStep | None = None
    attach: Callable[[torch.nn.Module], AbstractContextManager[None]] | None = None
    """Applied to the model while it trains, once Accelerate has wrapped it."""
    held_out: HeldOutCurve | None = None
    """Measured before the first step and along the way."""

    def take_up(self, losses: Sequence[float], points: Sequence[HeldOutPoint]) -> None:
        """Go on after the steps of an earlier process: their losses, and those on held-out documents."""
        self.losses[:] = losses
        if self.held_out is not None:
            self.held_out.measured[:] = points

    def __enter__(self) -> StepRecorder:
        self._stack = ExitStack()
        quiet = read_process_index() != 0

        self._bar = self._stack.enter_context(
            open_bar(
                total=self.total, initial=len(self.losses), desc=self.label, unit="step", leave=True, disable=quiet
            )
        )

        self._start_step()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_step(self) -> None:
        self.sum, self._micro_batches = torch.zeros(()), 0

    def add(self, loss: torch.Tensor) -> int:
        """Add one micro-batch's part of the step's loss; how many there are now."""
        self.sum = self.sum.to(loss.device) + loss.detach()
        self._micro_batches += 1
        return self._micro_batches

    def list_points(self) -> list[HeldOutPoint]:
        """Losses on held-out documents so far."""
        return list(self.held_out.measured) if self.held_out is not None else []

    def record(self, loss: float) -> None:
        """Close the step, whose loss over all processes is `loss`."""
        if not math.isfinite(loss):
            raise RunFailedError(
                f"{self.label}, step {len(self.losses) + 1}",
                f"the loss is {loss}",
                "Lower the learning rate, and check base and data for NaN; other settings need another output folder.",
            )

        self.losses.append(loss)
        self._start_step()

    def on_train_begin(self, *_: Any, **known: Any) -> None:
        # Not earlier: FSDP's own hooks, added when it wraps, must come after the one that moves the weights.
        if self.attach is not None:
            self._stack.enter_context(self.attach(known["model"]))
        if self.held_out is not None:
            self.held_out.measure_if_due(known["model"], self.losses)

    def on_step_end(self, *_: Any, **known: Any) -> None:
        self._bar.set_postfix(loss=f"{self.losses[-1]:.3f}", refresh=False)
        self._bar.update()

        if self.held_out is not None:
            self.held_out.measure_if_due(known["model"], self.losses)
        if self.after_step is not None:
            self.after_step(len(self.losses), self.losses)
