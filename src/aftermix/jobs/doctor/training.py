"""Faults of a training file: devices, packages, patterns, data; nothing is trained and no weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from aftermix.checkpoints.model import Model
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import SourceConfig, TrainConfig
from aftermix.errors import join_place
from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
from aftermix.jobs.train.expert_data import collect_sources
from aftermix.jobs.train.expert_run import make_trainable, refuse_own_vector
from aftermix.training.base_model import (
    build_empty_model,
    load_tokenizer,
    open_base,
    refuse_context,
    refuse_unknown_token,
)
from aftermix.training.data.encoding import build_example_encoder
from aftermix.training.data.examples import read_examples
from aftermix.training.trainer import uses_cuda

EXAMINED_EXAMPLES = 20
"""First examples of each dataset that are read and encoded."""


def examine_training(settings: TrainConfig, opened: Model | None, diagnosis: ConfigDiagnosis) -> None:
    """Tell `diagnosis` what `aftermix train` would refuse before its first step; without a base, in the data alone.

    Of each dataset the first examples are read and encoded: all of it is read by the training itself.
    """
    diagnosis.run_check(lambda: uses_cuda(settings.device))
    diagnosis.run_check(lambda: refuse_own_vector(settings))
    base = diagnosis.run_check(lambda: open_base(opened.folder, label=opened.label)) if opened is not None else None
    model = diagnosis.run_check(lambda: build_empty_model(base)) if base is not None else None
    tokenizer = diagnosis.run_check(lambda: load_tokenizer(base.folder)) if base is not None else None
    if model is not None:
        diagnosis.run_check(lambda: refuse_context(settings.context, model, masked=settings.mask_documents))
    if base is not None and model is not None:
        for names in settings.group_alike(settings.datasets):
            diagnosis.run_check(partial(_try_training, base, settings, names[0]))

    for section, name, source in _list_data(settings, diagnosis):
        where = join_place(f"train.{section}", name)
        diagnosis.run_check(lambda source=source: _examine_source(source, settings.date, tokenizer, model), where=where)  # type: ignore[misc]


def _try_training(base: Checkpoint, settings: TrainConfig, name: str) -> None:
    """Raise what the training of `name` would of patterns, adapters and packages; adapters stay in the model."""
    make_trainable(build_empty_model(base), settings.settle_for(name), where=settings.locate_lora(name))


def _list_data(settings: TrainConfig, diagnosis: ConfigDiagnosis) -> Iterator[tuple[str, str, SourceConfig]]:
    """Every source of data by section and name; the ratios of mixtures are looked at on the way."""
    for name, dataset in settings.datasets.items():
        source = dataset.source
        if source is not None:
            yield "datasets", name, source
        else:
            diagnosis.run_check(partial(collect_sources, name, settings), where=join_place("train.datasets", name))
    for name, source in settings.sources.items():
        yield "sources", name, source


def _examine_source(source: SourceConfig, date: str | None, tokenizer: Any, model: Any) -> None:
    examples = read_examples(
        Path(source.data),
        format=source.format,
        text_field=source.text_field,
        split=source.split,
        ignore_columns=source.ignore_columns,
    )
    first = list(islice((example for example in examples if example.characters), EXAMINED_EXAMPLES))
    if tokenizer is None or not first:
        return

    encode = build_example_encoder(tokenizer, format=source.format, where="base", date=date)
    highest = max((int(encoded.ids.max()) for encoded in encode(first) if len(encoded.ids)), default=0)
    if model is not None:
        refuse_unknown_token(highest, model, tokenizer, where="base")
