"""One model trained on packed sequences: Hugging Face Trainer with AdamW, and nothing of it but the loop.

The sequences are taken in the order given (their order is the data's business), each token once; the last batch may
be smaller. The Trainer neither logs, evaluates, saves nor reports; one progress bar shows step and loss.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from aftermix.config import OptimizerConfig
from aftermix.errors import RunFailedError, TrainingError
from aftermix.quiet import quiet_transformers
from aftermix.training.optimizers import SAM, MergeAware
from aftermix.training.optimizers.making import make_optimizer

SCHEDULES = {"cosine": "cosine_with_min_lr", "constant": "constant_with_warmup"}
"""Our names of the learning-rate schedules, and the Trainer's."""

IGNORED = -100
"""Label of a position that is not predicted (PyTorch's `ignore_index`)."""

FINAL_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; the defaults are SPEC section 5's. Weight decay spares biases and gains (one dimension)."""

    batch_size: int
    """Sequences of one optimizer step."""
    learning_rate: float
    schedule: str = "cosine"
    """`cosine` from the peak to `min_lr_rate` of it, or `constant`; both after `warmup_steps` of linear warm-up."""
    min_lr_rate: float = 0.01
    warmup_steps: int = 0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    """Seed of dropout, where the model has any, and of merge-aware noise."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            found = f"unknown schedule '{self.schedule}'"
            raise TrainingError("train.schedule", found, f"Use one of: {', '.join(SCHEDULES)}.")

    def steps(self, sequences: int) -> int:
        """Optimizer steps of so many sequences. Raises :class:`TrainingError` when the warm-up takes all of them."""
        count = math.ceil(sequences / self.batch_size)
        if self.warmup_steps >= count:
            found = f"{self.warmup_steps} steps of warm-up, but the run has {count} steps"
            raise TrainingError("train.warmup_steps", found, "Lower it, or train on more tokens.")
        return count


@dataclass(frozen=True)
class Trained:
    """What a run of training did."""

    losses: list[float]
    """Mean loss of each step, in nats a token, before that step's update."""
    seconds: float
    device: str

    @property
    def final_loss(self) -> float:
        """Mean loss of the last ten steps (of all, when there are fewer)."""
        last = self.losses[-FINAL_STEPS:]
        return sum(last) / len(last)


def train_one(
    model: Any,
    sequences: Sequence[torch.Tensor],
    *,
    recipe: Recipe,
    device: str = "auto",
    threads: int | None = None,
    label: str = "train",
) -> Trained:
    """Train `model` in place on `sequences` (1-D tensors of token ids), in their order, once; it ends on the CPU.

    `model` is any causal language model of transformers; its parameters become float32 (the masters), and those with
    `requires_grad` are trained. On CUDA the forward pass runs in bfloat16 where the device has it. Same model,
    sequences and recipe give the same weights, to the bit, on one device with one number of threads. Raises
    :class:`TrainingError` before the first step, :class:`RunFailedError` when the loss is not a finite number.
    """
    recipe.steps(len(sequences))
    on_cuda = uses_cuda(device)
    model.to("cuda" if on_cuda else "cpu", torch.float32)
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(quiet_transformers())
        stack.enter_context(_cpu_threads(threads))
        if on_cuda:
            stack.enter_context(_deterministic_algorithms())
        stack.enter_context(_use_cache_kept(model))
        optimizer = make_optimizer(model, recipe, fused=True)
        if isinstance(optimizer, MergeAware):
            stack.enter_context(optimizer.attached(model))
        trainer = _PackedTrainer(
            model=model,
            args=_arguments(recipe, on_cuda=on_cuda),
            optimizers=(optimizer, None),
        )
        trainer.sharpness_aware = optimizer if isinstance(optimizer, SAM) else None
        trainer.remove_callback(PrinterCallback)
        trainer.sequences = _Indexed(sequences)
        steps = stack.enter_context(_StepRecorder(label, total=recipe.steps(len(sequences))))
        trainer.recorder = steps
        trainer.add_callback(steps)
        trainer.train()
    model.eval()
    model.to("cpu")
    return Trained(losses=steps.losses, seconds=time.perf_counter() - started, device="cuda" if on_cuda else "cpu")


def uses_cuda(device: str) -> bool:
    """Whether `device` (`auto`, `cpu`, `cuda`, `cuda:0`) means a GPU here."""
    if device not in ("auto", "cpu", "cuda", "cuda:0"):
        remedy = "Use auto, cpu or cuda; choose among several GPUs with CUDA_VISIBLE_DEVICES."
        raise TrainingError("train.device", f"cannot train on '{device}'", remedy)
    available = torch.cuda.is_available()
    if device.startswith("cuda") and not available:
        raise TrainingError("train.device", f"'{device}' is not available here", "Use auto or cpu.")
    return available and device != "cpu"


def collate(sequences: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """One batch. A shorter sequence is filled up, unlabelled, behind its end, where causal attention never looks."""
    rows = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=0)
    labels = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=IGNORED)
    return {"input_ids": rows, "labels": labels}


@dataclass
class _Indexed(torch.utils.data.Dataset[torch.Tensor]):
    sequences: Sequence[torch.Tensor]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sequences[index]


class _PackedTrainer(Trainer):
    """Trainer that takes sequences in order and hands every step's loss to a recorder."""

    sequences: _Indexed
    recorder: _StepRecorder
    sharpness_aware: SAM | None

    def get_train_dataloader(self) -> Any:
        loader: DataLoader[torch.Tensor] = DataLoader(
            self.sequences,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        one_pass = partial(super().training_step, *args, **kwargs)
        loss: torch.Tensor = self.sharpness_aware.gradient_of(one_pass) if self.sharpness_aware else one_pass()
        self.recorder.record(float(loss))
        return loss

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002 - the Trainer's signature
        return 0  # walks all modules at every step for a figure that nobody reads


@dataclass
class _StepRecorder(TrainerCallback):
    """Keeps the losses, shows them on one bar, and stops at the first that is not a number."""

    label: str
    total: int
    losses: list[float] = field(default_factory=list)

    def __enter__(self) -> _StepRecorder:
        self._bar = tqdm(total=self.total, desc=self.label, unit="step", leave=True, dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def record(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunFailedError(
                f"{self.label}, step {len(self.losses) + 1}",
                f"the loss is {loss}",
                "Lower the learning rate, and check base and data for NaN; no model was written.",
            )
        self.losses.append(loss)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._bar.set_postfix(loss=f"{self.losses[-1]:.3f}", refresh=False)
        self._bar.update()


def _arguments(recipe: Recipe, *, on_cuda: bool) -> TrainingArguments:
    """The Trainer's settings: our recipe, everything else off."""
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # made if it is not there; nothing is written with saving off
        num_train_epochs=1,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        lr_scheduler_kwargs={"min_lr_rate": recipe.min_lr_rate} if recipe.schedule == "cosine" else {},
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed % (1 << 32),
        bf16=on_cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not on_cuda,
        dataloader_pin_memory=on_cuda,
        report_to="none",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        log_level="error",
        average_tokens_across_devices=False,
    )
    if on_cuda and not torch.distributed.is_initialized():
        arguments._n_gpu = 1  # several visible GPUs would turn on DataParallel, which changes the batch
    return arguments


@contextmanager
def _cpu_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    """Kernels that give the same bits every time, where CUDA has them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _use_cache_kept(model: Any) -> Iterator[None]:
    """The Trainer turns the key-value cache off in the model's configuration, which is not its to change."""
    before = getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        model.config.use_cache = before
