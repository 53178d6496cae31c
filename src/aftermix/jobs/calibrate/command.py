"""`aftermix calibrate`: every expert reads its own text, and what its linear layers are fed is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from aftermix.checkpoints.alignment.prefix import PrefixView
from aftermix.checkpoints.alignment.view import ModelView
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.model_files import find_tokenizer_folder
from aftermix.checkpoints.names import select_text_config
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.writer import stage_folder
from aftermix.config import CalibrateConfig, CalibrationConfig, Config, EvaluateConfig, TaskConfig, require
from aftermix.devices import open_device
from aftermix.errors import AftermixError, ConfigError, Problem, join_place, refuse_if_any
from aftermix.jobs.calibrate.layer_inputs import measure_layer_inputs
from aftermix.jobs.merge.command import refuse_output
from aftermix.jobs.provenance import list_versions
from aftermix.saliency.calibration_text import CalibrationSamples, Encode, EncodedText, choose_samples, settle_context
from aftermix.saliency.naming import ChannelStatistic
from aftermix.saliency.storage import DataNote, StatisticsNote, list_uncovered, note_weights, save_statistics
from aftermix.training.base_model import load_tokenizer
from aftermix.training.data.encoding import build_example_encoder
from aftermix.training.data.examples import TrainingExample, read_documents, read_examples
from aftermix.training.data.files import hash_data, is_plain_text

LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Keys under which configurations hold the longest sequence."""


@dataclass(frozen=True)
class CalibrationTexts:
    """Texts that there are to read for one vector."""

    source: str
    sha256: str
    texts: Sequence[str | TrainingExample]
    whole: bool = False
    """True for one text without documents, which is cut in any case."""
    format: Literal["chat", "completion"] | None = None
    """None for documents and prompts."""


@dataclass(frozen=True)
class CalibrationPlan:
    """One expert with its samples, everything checked that can be checked before the first forward pass."""

    vector: str
    expert: Model
    architecture: dict[str, Any]
    samples: CalibrationSamples
    data: DataNote


def calibrate(config: Config, output: Path) -> dict[str, StatisticsNote]:
    """Write the statistics of every vector of `config` that names calibration text into the new folder `output`.

    The folder appears complete or not at all. The same configuration and files give the same bytes. All inputs are
    checked before the first forward pass: :class:`AftermixError` names every fault.
    """
    require(config, "vectors")
    settings = config.calibrate
    if not any(vector.calibration for vector in config.vectors.values()):
        found = "no vector names calibration text"
        raise ConfigError("vectors", found, "Add `calibration: PATH` to those that are to be measured.")

    device = open_device(settings.device, where="calibrate.device", error=ConfigError)
    pool = open_pool(config)
    refuse_output(output, pool)

    plans = plan_calibration(config, pool)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)

    notes = {}
    with stage_folder(output) as hidden:
        for plan in plans:
            statistics = measure_layer_inputs(
                plan.expert, plan.architecture, plan.samples, settings, device, label=plan.vector
            )
            notes[plan.vector] = _build_note(plan, statistics, settings)
            save_statistics(hidden, notes[plan.vector], statistics)
    return notes


def plan_calibration(config: Config, pool: ModelPool) -> list[CalibrationPlan]:
    """Plan what each vector that names calibration text is to read, in order of name.

    Raises :class:`ManyProblemsError` with the faults of all.
    """
    named = {name: vector.calibration for name, vector in config.vectors.items() if vector.calibration is not None}

    plans: list[CalibrationPlan] = []
    problems: list[Problem] = []
    for name in sorted(named):
        try:
            plans.append(_plan_vector(config, pool, name, named[name]))
        except AftermixError as error:
            problems.extend(error.problems)
    refuse_if_any(problems)
    return plans


def _plan_vector(config: Config, pool: ModelPool, name: str, calibration: CalibrationConfig) -> CalibrationPlan:
    settings = config.calibrate
    expert = pool.experts[name]
    architecture = pool.frame.config if _is_renamed(expert) else expert.config
    limit = _find_position_limit(architecture)
    context = settle_context(settings.context, limit, where=expert.label)

    where = join_place("vectors", name, "calibration")
    texts = _read_texts(config, calibration, where)
    folder = find_tokenizer_folder(pool) if pool.vocabulary is not None else expert.folder

    tokenizer = load_tokenizer(folder)
    samples = choose_samples(
        texts.texts,
        _build_encoder(tokenizer, calibration, where=expert.label),
        samples=settings.samples,
        context=context,
        long_texts="cut" if texts.whole else settings.long_texts,
        seed=settings.seed,
        where=f"{where}: {texts.source}",
    )
    _refuse_foreign_tokens(samples, architecture, where=expert.label)

    data = DataNote(
        source=texts.source,
        sha256=texts.sha256,
        samples_sha256=samples.sha256,
        texts=samples.texts,
        samples=len(samples.sequences),
        context=context,
        tokens=samples.tokens,
        format=texts.format,
        counted=samples.counted_tokens if samples.counted is not None else None,
        template_sha256=_hash_template(tokenizer) if texts.format == "chat" else None,
    )
    return CalibrationPlan(name, expert, architecture, samples, data)


def _read_texts(config: Config, calibration: CalibrationConfig, where: str) -> CalibrationTexts:
    if calibration.task is not None:
        prompts = _collect_prompts(config, calibration)
        digest = hashlib.sha256("\0".join(prompts).encode()).hexdigest()
        return CalibrationTexts(f"task {calibration.task}", digest, prompts)

    path = Path(cast(str, calibration.data))
    try:
        return _read_data(path, calibration)
    except AftermixError as error:
        problem = error.problem
        remedy = problem.remedy.replace("`data:`", f"`{where}`").replace("`text_field:`", f"`{where}.text_field`")
        for key in ("format", "split", "ignore_columns"):
            remedy = remedy.replace(f"`{key}:", f"`{where}.{key}:").replace(f"dataset's `{where}.", f"`{where}.")
        raise ConfigError(f"{where}: {problem.where}", problem.found, remedy) from error


def _read_data(path: Path, calibration: CalibrationConfig) -> CalibrationTexts:
    """The documents, conversations or completions of the data at `path`, as a training reads them."""
    split, source, digest = calibration.split, str(path), hash_data(path, split=calibration.split)
    if calibration.format == "text":
        documents = read_documents(path, text_field=calibration.text_field, split=split)
        return CalibrationTexts(source, digest, documents.texts, whole=is_plain_text(path))
    ignored = calibration.ignore_columns
    examples = list(read_examples(path, format=calibration.format, split=split, ignore_columns=ignored))
    return CalibrationTexts(source, digest, examples, format=calibration.format)


def _collect_prompts(config: Config, calibration: CalibrationConfig) -> list[str]:
    """Prompts of the task's search and select items, so that test items stay unseen."""
    from aftermix.evaluation.harness import TaskSuite

    task = TaskConfig(task=cast(str, calibration.task), num_fewshot=calibration.num_fewshot)
    evaluate = config.evaluate or EvaluateConfig(tasks=(task,))
    suite = TaskSuite.build(evaluate.model_copy(update={"tasks": (task,), "apply_chat_template": False}))

    requests = [request for split in ("search", "select") for request in suite.list_requests(split, None)[task.task]]
    return list(dict.fromkeys(str(request.args[0]) for request in requests if request.args[0]))


def _build_encoder(tokenizer: Any, calibration: CalibrationConfig, *, where: str) -> Encode[str | TrainingExample]:
    """Encoder of texts, or of what has answers: conversations are written by the tokenizer's own chat template.

    Raises :class:`TrainingError` for a tokenizer without one.
    """
    if calibration.format == "text":

        def encode_texts(texts: list[Any]) -> list[EncodedText]:
            rows: list[list[int]] = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
            return [EncodedText(row) for row in rows]

        return encode_texts

    encode = build_example_encoder(tokenizer, format=calibration.format, where=where)
    answers_alone = calibration.tokens == "answers"

    def encode_examples(examples: list[Any]) -> list[EncodedText]:
        return [
            EncodedText(
                each.ids.tolist(), each.answered.tolist() if answers_alone and each.answered is not None else None
            )
            for each in encode(examples)
        ]

    return encode_examples


def _hash_template(tokenizer: Any) -> str:
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def _refuse_foreign_tokens(samples: CalibrationSamples, architecture: dict[str, Any], *, where: str) -> None:
    rows = select_text_config(architecture).get("vocab_size")
    highest = max(max(sequence) for sequence in samples.sequences)
    if isinstance(rows, int) and highest >= rows:
        found = f"its tokenizer gives token {highest}, but the model has {rows} rows, 0 to {rows - 1}"
        raise ConfigError(where, found, "Use the tokenizer that this model was trained with.")


def _find_position_limit(architecture: dict[str, Any]) -> int | None:
    settings = select_text_config(architecture)
    limit = next((settings[key] for key in LIMITS if key in settings), None)
    return limit if isinstance(limit, int) else None


def _is_renamed(model: Model) -> bool:
    """True when the expert is shown under other names than its own, those of the base's architecture."""
    return isinstance(model, ModelView) and (isinstance(model, PrefixView) or _is_renamed(model.inner))


def _build_note(
    plan: CalibrationPlan, statistics: dict[str, ChannelStatistic], settings: CalibrateConfig
) -> StatisticsNote:
    return StatisticsNote(
        format="aftermix statistics",
        version=1,
        vector=plan.vector,
        model=plan.expert.label,
        data=plan.data,
        options=settings.model_dump(mode="json"),
        uncovered=list_uncovered(statistics),
        alias=dict(plan.expert.alias),
        weights=note_weights(statistics, plan.expert),
        versions=list_versions(),
    )
