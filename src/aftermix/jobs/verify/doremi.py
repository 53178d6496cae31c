"""DoReMi on the data of a mixture: the ratios that a small proxy's training finds, as a baseline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import Config, TrainConfig
from aftermix.errors import TrainingError
from aftermix.jobs.train.command import build_recipe
from aftermix.jobs.train.expert_data import DatasetBuilder, DatasetSources, collect_sources, open_token_folder
from aftermix.jobs.train.expert_run import make_trainable
from aftermix.jobs.verify.training_file import training_config
from aftermix.runs.json_record import read_record
from aftermix.runs.verification_records import DOREMI_FILE, DoremiRunRecord, TrainingRecord, TrajectoryRecord
from aftermix.training.base_model import load_base, load_tokenizer, open_base, refuse_unfit
from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.doremi import SMOOTHING, STEP_SIZE, DoReMi, train_doremi
from aftermix.training.expert import build_recipe_record, identify_base

DATASET = "equal mixture"


def doremi_ratios(
    config: Config,
    output: Path,
    *,
    domains: Sequence[str],
    reference: Path,
    tokens: int,
    proxy: str | None = None,
    step_size: float = STEP_SIZE,
    smoothing: float = SMOOTHING,
    log: Callable[[str], None] | None = None,
) -> DoremiRunRecord:
    """Find ratios of `domains` by DoReMi and write them, with their trajectory, to `output`/doremi.json.

    `reference` is a model trained on the reference mixture, `proxy` (default `config.base`) the model that is trained
    on `tokens` tokens by the settings of `config.train`. A result of the same recipe is reused. Source: Xie et al.
    2023, Algorithm 1. Raises :class:`AftermixError` for data and models that do not fit, and a result of another
    recipe in the way.
    """
    equal = dict.fromkeys(domains, 1 / len(domains))
    config = training_config(config, domains=domains, mixtures={DATASET: equal}, tokens=tokens)
    settings, name = config.train, proxy or config.base
    assert settings is not None  # noqa: S101 - the training file requires both; for the type checker
    assert name is not None  # noqa: S101

    started = time.perf_counter()
    base, judge = open_base(locate(name), label=name), open_base(reference, label=str(reference))
    sources = collect_sources(DATASET, settings)

    identity = identify_base(base)
    recipe = _build_recipe_record(identity, judge, sources, settings, step_size=step_size, smoothing=smoothing)
    if (output / DOREMI_FILE).is_file():
        return _read_earlier(output / DOREMI_FILE, recipe)

    threads = settings.threads if settings.threads != "auto" else _read_threads(reference)
    with open_token_folder(settings, output) as cache:
        tokenizer = load_tokenizer(base.folder)
        builder = DatasetBuilder(settings, tokenizer, base.label, identity["companions"], cache)
        sequences = builder.build_sequences(DATASET, sources)
        assert isinstance(sequences, SequenceMixture)  # noqa: S101 - it has ratios; for the type checker
        result = _train_proxy(
            base, judge, sequences, tokenizer, settings, step_size=step_size, smoothing=smoothing, threads=threads
        )

    record = DoremiRunRecord(
        ratios=result.ratios,
        tokens=result.tokens,
        steps=len(result.weights_TK),
        trajectory=_describe_trajectory(result),
        reference=str(reference),
        proxy=base.label,
        seconds=round(time.perf_counter() - started, 3),
        recipe=recipe,
    )
    record.write(output / DOREMI_FILE)

    if log is not None:
        log(f"doremi: wrote {output / DOREMI_FILE}")
    return record


def _build_recipe_record(
    identity: dict[str, JsonValue],
    judge: Checkpoint,
    sources: DatasetSources,
    settings: TrainConfig,
    *,
    step_size: float,
    smoothing: float,
) -> dict[str, JsonValue]:
    """All that the ratios follow from, as JSON reads it back: data, training, the base of this `identity`, the `judge`
    and DoReMi's own settings."""
    recipe = build_recipe_record(
        identity, data=sources.build_data_record(), dataset=settings.datasets[DATASET], config=settings
    )
    recipe |= {"reference": identify_base(judge), "step_size": step_size, "smoothing": smoothing}
    read_back: dict[str, JsonValue] = json.loads(json.dumps(recipe))
    return read_back


def _train_proxy(
    base: Checkpoint,
    judge: Checkpoint,
    sequences: SequenceMixture,
    tokenizer: Any,
    settings: TrainConfig,
    *,
    step_size: float,
    smoothing: float,
    threads: int | None,
) -> DoReMi:
    """Train `base` on `sequences`, domains weighed by its loss over that of `judge`."""
    model = load_base(base)
    refuse_unfit(sequences, model, tokenizer, where=base.label)
    make_trainable(model, settings)

    return train_doremi(
        model,
        load_base(judge),
        sequences,
        recipe=build_recipe(settings, settings.datasets[DATASET]),
        step_size=step_size,
        smoothing=smoothing,
        device=settings.device,
        threads=threads,
    )


def _describe_trajectory(result: DoReMi) -> TrajectoryRecord:
    return TrajectoryRecord(
        domains=tuple(result.domains),
        weights=tuple(map(tuple, result.weights_TK.round(9).tolist())),
        excess=tuple(map(tuple, result.excess_TK.round(9).tolist())),
    )


def _read_threads(expert: Path) -> int | None:
    """CPU threads that `expert` was trained with."""
    record = read_record(expert / TRAINING_FILE, TrainingRecord)
    return record.threads if record is not None else None


def _read_earlier(file: Path, recipe: dict[str, JsonValue]) -> DoremiRunRecord:
    record = DoremiRunRecord.read(file)
    if record.recipe != recipe:
        remedy = "Name another output folder, or remove this file yourself."
        raise TrainingError(str(file), "holds ratios that were found with another recipe", remedy)
    return record
