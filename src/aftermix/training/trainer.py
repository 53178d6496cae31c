"""One model trained on packed sequences: Hugging Face Trainer and Accelerate, and nothing of them but the loop.

The sequences are taken in the order given (their order is the data's business), each token once; the last batch may
be smaller. The Trainer neither logs, evaluates nor reports, and saves resume points alone; one progress bar shows step
and loss.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from aftermix.config import OptimizerConfig
from aftermix.config.fields import Threads
from aftermix.devices import choose_threads, set_environment_aside
from aftermix.errors import TrainingError
from aftermix.terminal import quiet_transformers
from aftermix.training.batch_sampler import StepBatches
from aftermix.training.data.collate import IGNORED, TokenSequence, collate
from aftermix.training.distributed.processes import count_processes, read_process_index
from aftermix.training.distributed.sharding import asks_for_fsdp, enable_cpu_sharding, refuse_unsupported_launch
from aftermix.training.held_out.curve import HeldOutCurve
from aftermix.training.loop import AfterStep, IndexedSequences, PackedTrainer, StepRecorder
from aftermix.training.optimizers import SAM, MergeAware
from aftermix.training.optimizers.build import make_optimizer
from aftermix.training.resuming import ResumePoints, TrainingProgress
from aftermix.training.schedules import (
    SCHEDULES,
    build_schedule_options,
    refuse_too_few_steps,
    refuse_unknown_schedule,
)
from aftermix.training.tangent import linearise, refuse_several_processes

__all__ = ["IGNORED", "TrainingRecipe", "TrainingResult", "average_last_losses", "collate", "train_one", "uses_cuda"]

FINAL_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Options of a training; the defaults are those of docs/how-to/train.md.

    Weight decay spares biases and gains (one dimension).
    """

    batch_size: int
    """Sequences of one optimizer step."""
    learning_rate: float
    schedule: str = "cosine"
    """`cosine`, `constant` or `wsd`, as :func:`build_schedule_options` says."""
    min_lr_rate: float = 0.01
    warmup_steps: int = 0
    decay_share: float = 0.1
    decay_shape: str = "1-sqrt"
    accumulation: int = 1
    """Micro-batches that one step's sequences are worked off in; the result is the same but for rounding."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of forward and backward pass; `auto` is bfloat16 on a GPU that has it. Masters are float32 in any case."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    noise_scale: float | Mapping[str, float] | None = None
    """Scale of merge-aware noise, or by tensor, where it was found; None: what `optimizer` says."""
    seed: int = 0
    """Seed of dropout, where the model has any, and of merge-aware noise."""

    def __post_init__(self) -> None:
        refuse_unknown_schedule(self.schedule)

    def build_batches(self, sequences: int) -> StepBatches:
        """Micro-batches of this process, of so many sequences.

        Raises :class:`TrainingError` when a step cannot be shared out, or warm-up and decay take more than all steps.
        """
        batches = StepBatches(
            sequences=sequences,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            processes=count_processes(),
            process=read_process_index(),
        )

        refuse_too_few_steps(
            self.schedule, steps=batches.steps, warmup_steps=self.warmup_steps, decay_share=self.decay_share
        )
        return batches

    def count_steps(self, sequences: int) -> int:
        """Optimizer steps of so many sequences. Raises :class:`TrainingError` as :meth:`build_batches` does."""
        return self.build_batches(sequences).steps


@dataclass(frozen=True)
class TrainingResult:
    """Losses, time and place of a finished training."""

    losses: list[float]
    """Mean loss of each step, in nats a token, before that step's update."""
    seconds: float
    """Wall time of the steps, those before an interruption included."""
    device: str
    threads: int
    """CPU threads of the process."""
    processes: int = 1

    @property
    def final_loss(self) -> float:
        """:func:`average_last_losses` of the losses."""
        return average_last_losses(self.losses)


def average_last_losses(losses: Sequence[float]) -> float:
    """Mean of the last ten losses (of all, when there are fewer)."""
    last = losses[-FINAL_STEPS:]
    return sum(last) / len(last)


def train_one(
    model: Any,
    sequences: Sequence[TokenSequence] | Sequence[torch.Tensor],
    *,
    recipe: TrainingRecipe,
    device: str = "auto",
    threads: Threads = None,
    label: str = "train",
    after_step: AfterStep | None = None,
    resume: ResumePoints | None = None,
    tangent: bool = False,
    held_out: HeldOutCurve | None = None,
) -> TrainingResult:
    """Train `model` in place on `sequences` (1-D tensors of token ids), in their order, once; it ends on the CPU.

    `model` is any causal language model of transformers; its parameters become float32 (the masters), and those with
    `requires_grad` are trained. Same model, sequences and recipe give the same weights, to the bit, on one device with
    one number of threads, also when `resume` has a point of an interrupted run to go on from. `threads: auto` is what
    such a run began with; else one or all, by the time of the first steps; on several processes it changes nothing.
    `held_out` is measured on the way, which changes nothing of the weights. With `tangent` it is
    :func:`~aftermix.training.tangent.linearise` around where it starts. Under FSDP the model stays sharded
    (:func:`~aftermix.training.distributed.processes.gather_state` gathers it). Raises :class:`TrainingError` before the
    first step, :class:`RunFailedError` when a loss is not a finite number.
    """
    set_environment_aside()
    batches = recipe.build_batches(len(sequences))
    on_cuda = uses_cuda(device)
    _place_masters(model, on_cuda=on_cuda)

    earlier = resume.find_latest() if resume else None
    started = time.perf_counter() - (earlier.seconds if earlier else 0.0)

    with ExitStack() as stack:
        stack.enter_context(_hold_surroundings(model, threads=threads, on_cuda=on_cuda, tangent=tangent))

        # Inside the tangent, so that the Trainer finds the linear model's forward pass.
        optimizer = make_optimizer(model, recipe, fused=True)
        trainer = _build_trainer(model, optimizer, _build_arguments(recipe, batches, on_cuda=on_cuda, resume=resume))
        trainer.sequences, trainer.batches = IndexedSequences(sequences), batches
        trainer.resume_points, trainer.started = resume, started

        attach = optimizer.attached if isinstance(optimizer, MergeAware) else None
        recorder = StepRecorder(label, batches.steps, after_step=after_step, attach=attach, held_out=held_out)
        if earlier is not None:
            recorder.take_up(earlier.losses, earlier.held_out)
        trainer.recorder = stack.enter_context(recorder)
        trainer.add_callback(recorder)

        if threads == "auto" and not on_cuda and count_processes() == 1:
            _settle_threads(trainer, earlier)
        used = torch.get_num_threads()

        trainer.train(resume_from_checkpoint=str(earlier.folder) if earlier else None)

    model.eval()
    if not trainer.is_fsdp_enabled:
        model.to("cpu")

    return TrainingResult(
        losses=recorder.losses,
        seconds=time.perf_counter() - started,
        device="cuda" if on_cuda else "cpu",
        threads=used,
        processes=count_processes(),
    )


def _place_masters(model: Any, *, on_cuda: bool) -> None:
    """Put the weights where they are trained, in float32; on a GPU that of this process."""
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))

    # A model to be sharded goes to the GPU shard by shard; whole, it may not fit.
    model.to("cuda" if on_cuda and not asks_for_fsdp() else "cpu", torch.float32)


def uses_cuda(device: str) -> bool:
    """True when `device` (`auto`, `cpu`, `cuda`, `cuda:0`) means a GPU here.

    Raises :class:`TrainingError` for another name, a launch that cannot work, and a GPU that is not there.
    """
    if device not in ("auto", "cpu", "cuda", "cuda:0"):
        remedy = "Use auto, cpu or cuda; choose among several GPUs with CUDA_VISIBLE_DEVICES."
        raise TrainingError("train.device", f"cannot train on '{device}'", remedy)

    refuse_unsupported_launch()
    available = torch.cuda.is_available()
    if device.startswith("cuda") and not available:
        raise TrainingError("train.device", f"'{device}' is not available here", "Use auto or cpu.")
    return available and device != "cpu"


def _build_arguments(
    recipe: TrainingRecipe, batches: StepBatches, *, on_cuda: bool, resume: ResumePoints | None
) -> TrainingArguments:
    """The Trainer's settings: our recipe, everything else off."""
    on_bfloat16 = {"auto": on_cuda and torch.cuda.is_bf16_supported(), "bfloat16": True, "float32": False}
    saves = resume is not None and resume.every_steps > 0

    arguments = TrainingArguments(
        # Made if it is not there; nothing is written with saving off.
        output_dir=str(resume.folder) if saves and resume else tempfile.gettempdir(),
        num_train_epochs=1,
        per_device_train_batch_size=batches.micro_batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        lr_scheduler_kwargs=build_schedule_options(
            recipe.schedule,
            steps=batches.steps,
            min_lr_rate=recipe.min_lr_rate,
            decay_share=recipe.decay_share,
            decay_shape=recipe.decay_shape,
        ),
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed % (1 << 32),
        bf16=on_bfloat16[recipe.precision],
        use_cpu=not on_cuda,
        dataloader_pin_memory=on_cuda,
        report_to="none",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="steps" if saves else "no",
        save_steps=resume.every_steps if saves and resume else 500,
        eval_strategy="no",
        disable_tqdm=True,
        log_level="error",
        average_tokens_across_devices=count_processes() > 1,
    )

    if on_cuda and not torch.distributed.is_initialized():
        arguments._n_gpu = 1  # several visible GPUs would turn on DataParallel, which changes the batch
    return arguments


def _settle_threads(trainer: PackedTrainer, earlier: TrainingProgress | None) -> None:
    """Take the threads that the run began with; those of a new run by the time of its first steps."""
    if earlier is None:
        choose_threads(trainer.list_timed_steps())
    elif earlier.threads is not None:
        torch.set_num_threads(earlier.threads)


def _build_trainer(model: Any, optimizer: torch.optim.Optimizer, arguments: TrainingArguments) -> PackedTrainer:
    """A Trainer that takes our steps and prints nothing."""
    trainer = PackedTrainer(model=model, args=arguments, optimizers=(optimizer, None))
    enable_cpu_sharding(trainer)

    # The Trainer's constructor takes none of these.
    trainer.sharpness_aware = optimizer if isinstance(optimizer, SAM) else None
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def _hold_surroundings(model: Any, *, threads: Threads, on_cuda: bool, tangent: bool) -> Iterator[None]:
    """Threads, kernels and the model's forward pass as a training has them, put back at its end."""
    with ExitStack() as stack:
        stack.enter_context(quiet_transformers())
        stack.enter_context(_limit_cpu_threads(threads if isinstance(threads, int) else None))
        if on_cuda:
            stack.enter_context(_use_deterministic_algorithms())
        stack.enter_context(_preserve_use_cache(model))

        if tangent:
            refuse_several_processes()
            stack.enter_context(linearise(model))
        yield


@contextmanager
def _limit_cpu_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _use_deterministic_algorithms() -> Iterator[None]:
    """Kernels that give the same bits every time, where CUDA has them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _preserve_use_cache(model: Any) -> Iterator[None]:
    """The Trainer turns the key-value cache off in the model's configuration, which is not its to change."""
    before = getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        model.config.use_cache = before
