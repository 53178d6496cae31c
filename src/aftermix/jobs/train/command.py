"""The training job: one expert per dataset, each a complete model folder beside the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from pydantic import JsonValue

from aftermix import progress
from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE, digest_tensors
from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import Config, DatasetConfig, TrainConfig, VectorConfig, require
from aftermix.devices import set_environment_aside
from aftermix.errors import AftermixError, Problem, TrainingError, join_place, refuse_if_any
from aftermix.jobs.job_kind import NEEDED, refuse_no_dataset
from aftermix.jobs.tracking.tracker import open_tracker, refuse_missing_trackers
from aftermix.jobs.train.console_lines import describe_chat_stops, describe_datasets
from aftermix.jobs.train.expert_data import (
    DatasetBuilder,
    DatasetSources,
    collect_sources,
    describe_data,
    open_token_folder,
)
from aftermix.jobs.train.expert_run import ExpertPlan, make_trainable, plan_run, train_expert
from aftermix.jobs.train.held_out_run import HeldOutRun, describe_held_out
from aftermix.jobs.train.noise_scale import NoiseOrigin
from aftermix.process_lock import hold_lock
from aftermix.training.base_model import load_base, load_tokenizer, open_base, refuse_unfit
from aftermix.training.data.frozen_rows import describe_frozen_rows
from aftermix.training.distributed.processes import read_process_index
from aftermix.training.expert import (
    build_recipe_record,
    collect_trained_tensors,
    identify_base,
    is_already_trained,
)
from aftermix.training.optimizers.build import refuse_idle_exclusions
from aftermix.training.trainer import TrainingRecipe, uses_cuda


def train(config: Config, output: Path, *, log: Callable[[str], None] | None = None) -> dict[str, Path]:
    """Train one expert per dataset of `config.train` from `config.base`; folder `output/NAME` by dataset name.

    Each folder is a complete Hugging Face model with the base's tensor names and types, written whole or not at all,
    and a `train.json` of what was done. An expert whose folder is there with the same recipe is reused, and `log` is
    told. All inputs are checked before the first step: :class:`AftermixError` names every fault. Experts finished
    before a fault or an interruption stay. Of several processes the first alone writes, speaks and gives folders back.
    """
    log = (log or progress.say) if read_process_index() == 0 else _ignore_line
    require(config, *NEEDED["train"])
    settings, base_name = config.train, config.base
    if settings is None or base_name is None:
        raise TrainingError("train", "missing from the YAML file", "Add `base:` and `train:`.")

    refuse_no_dataset(settings)
    refuse_missing_trackers(config.track)
    set_environment_aside(log)
    base = open_base(locate(base_name), label=base_name)
    for note in base.notes:
        log(f"base {note}")
    folders = {name: output / name for name in settings.datasets}
    _refuse_base_in_the_way(output, folders, base)
    uses_cuda(settings.device)

    settings = _resolve_scale(settings, base_name, log)
    noise = NoiseOrigin.open(settings, base_name)
    unfinished = [folder for folder in folders.values() if not (folder / TRAINING_FILE).is_file()]
    token_folder = open_token_folder(settings, output) if unfinished else nullcontext(output)  # nothing to write
    with hold_experts(unfinished), token_folder as tokens:
        plans = _plan_experts(settings, base, folders, tokens, noise)
        for name, folder in folders.items():
            if name not in {plan.name for plan in plans}:
                log(f"{name}: reused {folder}, trained before by the same recipe")

        for plan in plans:
            for line in plan.said:
                log(f"{plan.name}: {line}")
        for plan in plans:
            with open_tracker(config.track, output, name=plan.name) as tracker:
                train_expert(plan, settings.settle_for(plan.name), base, tracker=tracker, log=log)
            if plan.held_out is not None and read_process_index() == 0:
                from aftermix.report.training.page import write_training_report  # matplotlib takes a second to import

                log(f"report: {write_training_report(output, list(folders))}")
    return folders if read_process_index() == 0 else {}


@contextmanager
def hold_experts(folders: Sequence[Path]) -> Iterator[None]:
    """Keep other trainings from the experts of `folders` while the block lasts: one process works on each.

    Of several processes the first alone holds them. Raises :class:`AftermixError` naming the process that trains one.
    """
    with ExitStack() as stack:
        for folder in folders if read_process_index() == 0 else ():
            stack.enter_context(hold_lock(folder.with_name(f".{folder.name}.lock"), subject=folder))
        yield


def _ignore_line(_: str) -> None:
    """Say nothing, as all processes of a run but the first."""


def _resolve_scale(settings: TrainConfig, base_name: str, log: Callable[[str], None]) -> TrainConfig:
    """The settings with a number for `scale: auto`: the mean absolute deviation of the pilot's vector.

    Raises :class:`TrainingError` for a pilot that is the base itself.
    """
    if settings.optimizer.pilot is None:
        return settings
    from aftermix.analysis.distribution import fit_whole  # SciPy's distributions take a second to import

    pilot = VectorConfig(model=settings.optimizer.pilot)
    fitted = fit_whole(open_pool(Config(base=base_name, vectors={"pilot": pilot})))["pilot"]
    if fitted is None:
        found = f"{pilot.model} equals the base, so its vector has no scale"
        raise TrainingError("train.optimizer.pilot", found, "Name an expert trained from this base.")

    log(f"scale {fitted.laplace.scale:.3g}, from {pilot.model}")
    update = {"scale": fitted.laplace.scale, "pilot": None}
    return settings.model_copy(update={"optimizer": settings.optimizer.model_copy(update=update)})


def _refuse_base_in_the_way(output: Path, folders: dict[str, Path], base: Checkpoint) -> None:
    root = base.folder.resolve()
    for place in (output, *folders.values()):
        resolved = place.resolve()
        if resolved == root or root in resolved.parents:
            found = f"the output would lie in the base's folder {base.folder}"
            raise TrainingError(str(place), found, "Name an output folder outside of it.")

    if output.exists() and not output.is_dir():
        raise TrainingError(str(output), "is a file", "Name a folder.")


def _plan_experts(
    settings: TrainConfig, base: Checkpoint, folders: dict[str, Path], tokens: Path, noise: NoiseOrigin | None
) -> list[ExpertPlan]:
    """Plan and check what is to be trained, without experts that are there already. Tokens are kept in `tokens`.

    Raises :class:`ManyProblemsError` with the faults of all datasets.
    """
    base_identity = identify_base(base)
    to_prepare: dict[str, tuple[DatasetSources, dict[str, JsonValue]]] = {}
    problems: list[Problem] = []

    for name, dataset in settings.datasets.items():
        try:
            sources = collect_sources(name, settings)
            data, own = sources.build_data_record(), settings.settle_for(name)
            scale = noise.identify() if noise is not None else None
            record = build_recipe_record(base_identity, data=data, dataset=dataset, config=own, noise_scale=scale)
            if not is_already_trained(folders[name], record, checkpoint_tokens=settings.checkpoint_tokens):
                to_prepare[name] = sources, record
        except AftermixError as error:
            problems += _label_problems(name, error)

    # The base is loaded only where something is to be trained.
    identity = base_identity["companions"]
    plans = (
        _prepare_experts(settings, base, folders, to_prepare, problems, tokens, identity, noise) if to_prepare else []
    )
    refuse_if_any(problems)
    return plans


def _prepare_experts(
    settings: TrainConfig,
    base: Checkpoint,
    folders: dict[str, Path],
    to_prepare: dict[str, tuple[DatasetSources, dict[str, JsonValue]]],
    problems: list[Problem],
    tokens: Path,
    identity: str,
    noise: NoiseOrigin | None,
) -> list[ExpertPlan]:
    """Read, tokenise and pack each dataset of `to_prepare` against a model loaded once to see that all fits.

    Where experts are trained in several ways (adapters of some, the weights of others), once for each of them.
    """
    tokenizer = load_tokenizer(base.folder)
    builder = DatasetBuilder(settings, tokenizer, base.label, identity, tokens)
    base_tensors = digest_tensors(base) if read_process_index() == 0 else {}  # the first process alone writes

    plans: dict[str, ExpertPlan] = {}
    for names in settings.group_alike(to_prepare):
        model = load_base(base)
        collect_trained_tensors(model, base)
        make_trainable(model, settings.settle_for(names[0]), where=settings.locate_lora(names[0]))
        refuse_idle_exclusions(model, settings.optimizer)

        for name in names:
            sources, record = to_prepare[name]
            try:
                parts = builder.build_parts(name, sources)
                packed = parts.trained
                refuse_unfit(packed, model, tokenizer, where=base.label)
                recipe = build_recipe(settings, settings.datasets[name])
                recipe.count_steps(len(packed))
                plan = plan_run(name, folders[name], packed, recipe, record, settings)
                noise_scale = noise.plan(name, parts, builder) if noise is not None else None
            except AftermixError as error:
                problems += _label_problems(name, error)
            else:
                said = describe_datasets(sources, packed, batch=recipe.batch_size)
                said += [*describe_frozen_rows(packed, model, tokenizer), *describe_chat_stops(sources, base)]
                held_out = HeldOutRun.plan(name, parts, settings=settings)
                said += describe_held_out(held_out, settings)
                described = describe_data(sources, packed)
                plans[name] = plan.attach_descriptions(described, base_tensors, said, held_out, noise_scale)
    return [plans[name] for name in to_prepare if name in plans]


def build_recipe(settings: TrainConfig, dataset: DatasetConfig) -> TrainingRecipe:
    """Recipe by which the expert of `dataset` is trained."""
    return TrainingRecipe(
        batch_size=settings.batch_size,
        learning_rate=dataset.learning_rate or settings.learning_rate,
        schedule=settings.schedule,
        min_lr_rate=settings.min_lr_rate,
        warmup_steps=settings.warmup_steps,
        decay_share=settings.decay_share,
        decay_shape=settings.decay_shape,
        accumulation=settings.accumulation,
        precision=settings.precision,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
        seed=settings.seed,
    )


def _label_problems(name: str, error: AftermixError) -> list[Problem]:
    """The problems of `error`, saying whose dataset it is."""
    place = join_place("train.datasets", name)
    return [Problem(f"{place}: {each.where}", each.found, each.remedy) for each in error.problems]
