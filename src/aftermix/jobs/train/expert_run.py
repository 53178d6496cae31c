"""One expert's run: trained with resume points, its checkpoints written along the way, its folder at the end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import TrainConfig
from aftermix.errors import CheckpointError, RunFailedError, TrainingError
from aftermix.jobs.tracking.tracker import JobTracker
from aftermix.jobs.train.held_out_run import HeldOutRun
from aftermix.jobs.train.noise_scale import FoundNoise, NoiseScalePlan, describe_noise
from aftermix.jobs.train.time_estimate import TimeEstimate
from aftermix.runs.verification_records import (
    LOSSES_FILE,
    LossRecord,
    NoiseScaleRecord,
    OwnVectorRecord,
    TrainingRecord,
)
from aftermix.training.base_model import freeze, load_base
from aftermix.training.checkpoint_schedule import name_checkpoint_folder, plan_checkpoints
from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.data.packing import PackedTokens
from aftermix.training.distributed.processes import count_processes, gather_state, read_process_index, wait_for_all
from aftermix.training.expert import is_already_trained, write_expert
from aftermix.training.held_out.curve import HeldOutCurve
from aftermix.training.lora import ADAPTER_FOLDER, add_adapters, fold_adapters, format_adapter
from aftermix.training.resuming import ResumePoints
from aftermix.training.trainer import TrainingRecipe, average_last_losses, train_one
from aftermix.training.vectors.own_vector import describe_rounding, parse_vector_type

VERSIONS_OF = ("aftermix", "accelerate", "numpy", "safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class ExpertPlan:
    """One expert that is to be trained, with everything checked that can be checked before the first step."""

    name: str
    folder: Path
    packed: PackedTokens | SequenceMixture
    recipe: TrainingRecipe
    record: dict[str, JsonValue]
    """Values that decide the weights."""
    checkpoints: dict[int, int]
    """Tokens seen by step, of the steps after which a checkpoint is due."""
    resume: ResumePoints
    data: dict[str, JsonValue]
    """Description of the dataset for the record; its texts are not kept once they are packed."""
    base_tensors: Mapping[str, str] = field(default_factory=dict)
    """Digests of the base's tensors by name, for the record."""
    said: tuple[str, ...] = ()
    """Lines on the dataset for the console."""
    held_out: HeldOutRun | None = None
    """Measurements of the expert on documents held out; None where none are."""
    noise_scale: NoiseScalePlan | None = None
    """Plan by which the scale of its noise is found; None where that is a number."""

    def count_step_tokens(self) -> list[int]:
        """Tokens of each step."""
        lengths, size = self.packed.lengths.tolist(), self.recipe.batch_size
        return [sum(lengths[start : start + size]) for start in range(0, len(lengths), size)]

    def attach_descriptions(
        self,
        data: dict[str, JsonValue],
        base_tensors: Mapping[str, str],
        said: Sequence[str],
        held_out: HeldOutRun | None,
        noise_scale: NoiseScalePlan | None,
    ) -> ExpertPlan:
        """The plan with the description of its dataset and of its base, and what is said and measured of them."""
        of_data = replace(self, data=data, base_tensors=base_tensors, said=tuple(said))
        return replace(of_data, held_out=held_out, noise_scale=noise_scale)

    def attach_noise(self, noise: FoundNoise | None) -> ExpertPlan:
        """The plan with the scale of its noise: the recipe takes it, and each resume point writes it down."""
        if noise is None:
            return self
        recipe, values = replace(self.recipe, noise_scale=noise.scale), noise.record.model_dump(exclude_unset=True)
        return replace(self, recipe=recipe, resume=replace(self.resume, noise=values))


def plan_run(
    name: str,
    folder: Path,
    packed: PackedTokens | SequenceMixture,
    recipe: TrainingRecipe,
    record: dict[str, JsonValue],
    settings: TrainConfig,
) -> ExpertPlan:
    """Plan the run that writes `folder`; checkpoints that an interrupted run wrote are not due again.

    Raises :class:`TrainingError` for a checkpoint that the run does not reach, one of another recipe that is in the
    way, an unfinished run of another recipe, and a run that would begin with `offset: own_vector`.
    """
    wanted = settings.checkpoint_tokens
    lengths = packed.lengths.tolist()
    due = plan_checkpoints(lengths, batch_size=recipe.batch_size, wanted=wanted)
    # Asked before training: once it goes on, one process may look while another writes.
    due = {step: n for step, n in due.items() if not is_already_trained(name_checkpoint_folder(folder, n), record)}

    work = folder.with_name(f".{folder.name}.training")
    resume = ResumePoints(work, every_steps=settings.save_steps, recipe=record, vector=settings.vector)
    earlier = resume.find_latest()
    if earlier is not None:
        resume = replace(resume, vector=earlier.vector)  # a run ends as it began
    else:
        refuse_own_vector(settings)
    return ExpertPlan(name, folder, packed, recipe, record, due, resume, data={})


def refuse_own_vector(settings: TrainConfig) -> None:
    """Raise :class:`TrainingError` for a training that would begin with the offset that makes worse experts."""
    if settings.optimizer.offset != "own_vector":
        return
    found = "`own_vector` trains worse experts, at home and merged (docs/lab-notes.md), and no training begins with it"
    remedy = "Use `offset: paper`, or leave it out; experts and unfinished runs that have it stay and go on."
    raise TrainingError("train.optimizer.offset", found, remedy)


def make_trainable(model: Any, settings: TrainConfig, *, where: str = "train.lora") -> list[str]:
    """Leave those parameters of `model` to be trained that `settings` mean; names of what stays at the base's values.

    With `lora` that are adapters, which are put into the model; `where` is its place in the file.
    """
    if settings.lora is None:
        return freeze(model, settings.freeze)
    return add_adapters(model, settings.lora, seed=settings.seed, where=where)


def train_expert(
    plan: ExpertPlan, settings: TrainConfig, base: Checkpoint, *, tracker: JobTracker, log: Callable[[str], None]
) -> None:
    """Train the expert of `plan` and write its folder; go on where an interrupted run of the same recipe stopped.

    `settings` are those of this expert (:meth:`TrainConfig.settle_for`).
    """
    plan.resume.remove_unfinished()
    earlier = plan.resume.find_latest()
    if earlier is not None:
        log(f"{plan.name}: goes on after step {earlier.step} of {plan.recipe.count_steps(len(plan.packed))}")

    estimate = TimeEstimate(plan.count_step_tokens(), _speak_for(plan, log))
    vector = _train_and_write(plan, settings, base, estimate, tracker)
    plan.resume.remove()  # only here: whatever fails before may be mended, and the run goes on
    log(f"{plan.name}: wrote {plan.folder}")
    if vector is not None and vector.rounding_lost:
        adapters = ADAPTER_FOLDER if settings.lora is not None else None
        log(f"{plan.name}: {describe_rounding(vector, adapters=adapters)}")
    wait_for_all()
    gc.collect()  # the Trainer leaves reference cycles, and the next expert needs the room


def _speak_for(plan: ExpertPlan, log: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: log(f"{plan.name}: {line}")


def _train_and_write(
    plan: ExpertPlan, settings: TrainConfig, base: Checkpoint, estimate: TimeEstimate, tracker: JobTracker
) -> OwnVectorRecord | None:
    """Train and write the expert; the process that writes tells what its stored type rounded."""
    model = load_base(base)
    frozen = make_trainable(model, settings)
    noise = _settle_noise(plan, settings, model, estimate.say)
    plan = plan.attach_noise(noise)
    curve = plan.held_out.build_curve(plan.resume.folder) if plan.held_out is not None else None
    writer = _ExpertWriter(plan, settings, base, model, frozen=frozen, curve=curve, noise=noise)

    def after_step(step: int, losses: Sequence[float]) -> None:
        estimate.note_step(step)
        tracker.note_step(step, losses, held_out=curve.measured if curve is not None else ())
        writer.write_if_due(step, losses)

    done = train_one(
        model,
        plan.packed,
        recipe=plan.recipe,
        device=settings.device,
        threads=settings.threads,
        label=f"train {plan.name}",
        after_step=after_step,
        resume=plan.resume,
        tangent=settings.tangent,
        held_out=curve,
    )

    measured = {
        "seconds": round(done.seconds, 3),
        "tokens_per_second": round(plan.packed.tokens / done.seconds, 1),
        "device": done.device,
        "threads": done.threads,
        "processes": done.processes,
    }
    return writer.write(plan.folder, tokens=plan.packed.tokens, losses=done.losses, **measured)


def _settle_noise(plan: ExpertPlan, settings: TrainConfig, model: Any, say: Callable[[str], None]) -> FoundNoise | None:
    """The scale of the noise as an interrupted run found it, else found; None where the file gives the number."""
    if plan.noise_scale is None:
        return None
    point = plan.resume.find_latest()
    began = point.noise if point is not None else None
    earlier = NoiseScaleRecord.model_validate(dict(began)) if began is not None else None
    noise = plan.noise_scale.find(model, settings, label=plan.name, earlier=earlier)
    if earlier is None:
        say(describe_noise(noise.record))
    return noise


@dataclass(frozen=True)
class _ExpertWriter:
    """Writer of the folders of one run, with what they have in common."""

    plan: ExpertPlan
    settings: TrainConfig
    base: Checkpoint
    model: Any
    frozen: list[str]
    curve: HeldOutCurve | None
    noise: FoundNoise | None

    def write_if_due(self, step: int, losses: Sequence[float]) -> None:
        """Write the checkpoint that is due after `step`."""
        tokens = self.plan.checkpoints.get(step)
        if tokens is not None:
            folder, steps = (
                name_checkpoint_folder(self.plan.folder, tokens),
                self.plan.recipe.count_steps(len(self.plan.packed)),
            )
            self.write(folder, tokens=tokens, losses=losses, of_steps=steps)

    def write(self, folder: Path, *, tokens: int, losses: Sequence[float], **more: Any) -> OwnVectorRecord | None:
        """Write the model as it is now; every process must call this, and one writes and tells what was rounded."""
        dtype = getattr(torch, self.settings.dtype) if self.settings.dtype else None
        state = gather_state(self.model)
        if read_process_index() != 0:
            return None

        companions: dict[str, bytes] = {}
        if self.settings.lora is not None:
            companions |= format_adapter(self.model, state, base=self.base.label)
            state = fold_adapters(self.model, state)
        record = self._build_record(tokens=tokens, losses=losses).model_copy(update=more)
        if self.curve is not None and self.plan.held_out is not None:
            measured = self.curve.measured
            record = record.model_copy(update={"held_out": self.plan.held_out.build_record(measured)})
            companions[LOSSES_FILE] = self.plan.held_out.format_journal(losses, measured).encode()
        if self.noise is not None:
            record = record.model_copy(update={"noise": self.noise.record})
        values = record.model_dump(exclude_unset=True)
        vector = parse_vector_type(self.plan.resume.vector)
        try:
            return write_expert(
                *(folder, self.model, self.base),
                dtype=dtype,
                record=values,
                state=state,
                vector=vector,
                companions=companions,
            )
        except CheckpointError as error:
            remedy = "Make room there and give the same command again; experts, checkpoints and resume points stay."
            raise RunFailedError(error.problem.where, error.problem.found, remedy) from error

    def _build_record(self, *, tokens: int, losses: Sequence[float]) -> TrainingRecord:
        """Content of `train.json`: the recipe that identifies the expert, and what really happened."""
        plan, packed = self.plan, self.plan.packed
        epochs = None if isinstance(packed, SequenceMixture) else round(packed.epochs * tokens / packed.tokens, 6)

        return TrainingRecord(
            format=1,
            name=plan.name,
            base=self.base.label,
            recipe=plan.record,
            data=plan.data,
            tokens=tokens,
            epochs=epochs,
            documents_begun=packed.documents,
            sequences=min(len(packed), len(losses) * plan.recipe.batch_size),
            steps=len(losses),
            learning_rate=plan.recipe.learning_rate,
            seed=plan.recipe.seed,
            checkpoint_tokens=self.settings.checkpoint_tokens,
            trained_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            frozen=tuple(self.frozen),
            loss=LossRecord(first=losses[0], final=average_last_losses(losses)),
            processes=count_processes(),
            threads=torch.get_num_threads(),
            versions={name: version(name) for name in VERSIONS_OF},
            base_tensors=dict(plan.base_tensors),
        )
