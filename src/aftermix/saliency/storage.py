"""Statistics as files: one of safetensors and one note for each vector.

STATISTICS/NAME.safetensors   mean squares in float32, by the name of the weight that a merge streams
STATISTICS/NAME.json          what they were measured on: model, data, options, versions, tokens of each weight
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer
from safetensors import SafetensorError
from safetensors.torch import load, save

from aftermix.checkpoints.model import Model
from aftermix.checkpoints.safe_files import read_json
from aftermix.config import ConfigSection
from aftermix.errors import CheckpointError, Problem, ask_meant_path, join_place, refuse_if_any
from aftermix.files import format_json
from aftermix.saliency.naming import ChannelStatistic

START_ELEMENTS = 256
"""Elements of each weight that are compared with those of the model that is merged."""
LISTED = 5
AGAIN = "Make the statistics again with `aftermix calibrate`."


class WeightNote(ConfigSection):
    """One weight, and how many tokens its layer saw."""

    shape: tuple[int, ...]
    axis: int
    """The dimension that is the input channel."""
    tokens: tuple[int, ...]
    """One count, or one for each expert where all are stored in one tensor."""
    start: str
    """XXH3-64 of the first elements in float32."""


class DataNote(ConfigSection):
    """The text that was read."""

    source: str
    sha256: str
    """Of the file, or of the task's prompts."""
    samples_sha256: str
    """Of the token numbers."""
    texts: int
    """Texts that there were to choose from."""
    samples: int
    context: int
    tokens: int
    format: Literal["chat", "completion"] | None = None
    """Of what was read; absent for documents and prompts of a task."""
    counted: int | None = None
    """Tokens that count, where not all do."""
    template_sha256: str | None = None
    """Hash of the chat template that conversations were written by."""

    @model_serializer(mode="wrap")
    def _known_alone(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what does not concern documents, which notes of earlier versions lack."""
        return {key: value for key, value in plain(self).items() if value is not None}


class StatisticsNote(ConfigSection):
    """Content of `NAME.json`."""

    format: Literal["aftermix statistics"]
    version: Literal[1]
    vector: str
    model: str
    data: DataNote
    options: dict[str, Any]
    uncovered: tuple[str, ...]
    """Linear weights whose layer saw no token: `NAME`, or `NAME[3]` for an expert within a tensor of experts."""
    alias: dict[str, str]
    """Second names of tied weights."""
    weights: dict[str, WeightNote]
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class StoredStatistics:
    """The statistics of one vector, by stored name; a tied weight has them under each of its names."""

    folder: Path
    note: StatisticsNote
    values: Mapping[str, torch.Tensor]

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Names of linear weights whose layer saw no token, and `NAME[3]` for experts within a tensor of experts."""
        return self.note.uncovered

    def mean_square(self, name: str) -> torch.Tensor | None:
        """float32 (C,), or (E, C) for a tensor of experts; None for what is no linear weight or saw no token at all.

        In an (E, C) the row of an expert that saw no token is 0: see :meth:`tokens`.
        """
        weight = self._find_weight(name)
        return self.values[self._resolve_name(name)] if weight is not None and any(weight.tokens) else None

    def axis(self, name: str) -> int:
        """Dimension of the stored tensor that is the input channel."""
        return self._require_weight(name).axis

    def tokens(self, name: str) -> tuple[int, ...]:
        """Tokens that the layer saw: one count, or one for each expert of a tensor of experts."""
        return self._require_weight(name).tokens

    def factor(self, name: str) -> torch.Tensor | None:
        """The mean squares in a shape that multiplies the stored tensor, e.g. (1, C), (C, 1) or (E, 1, C)."""
        values = self.mean_square(name)
        if values is None:
            return None
        weight = self._require_weight(name)
        shape = [1] * len(weight.shape)
        shape[weight.axis] = values.shape[-1]
        if values.dim() == 2:
            shape[0] = values.shape[0]
        return values.reshape(shape)

    def refuse_other(self, model: Model) -> None:
        """Raise :class:`ManyProblemsError` unless `model` is the one that was measured, as the merge streams it.

        Compared are names, shapes and the first elements of every weight that has statistics.
        """
        problems = [
            problem
            for name, weight in self.note.weights.items()
            if (problem := self._compare_weight(model, name, weight))
        ]
        if len(problems) > LISTED:
            rest = f"so do {len(problems) - LISTED} more of its weights"
            problems = [*problems[:LISTED], Problem(str(self.folder), rest, AGAIN)]
        refuse_if_any(problems)

    def _compare_weight(self, model: Model, name: str, weight: WeightNote) -> Problem | None:
        owner = f"statistics of vector '{self.note.vector}' ({self.note.model})"
        if not model.has(name):
            return Problem(name, f"{owner} are of a model with this weight, {model.label} has none", AGAIN)
        if model.info(name).shape != weight.shape:
            found = f"{owner} are of a model with {weight.shape}, {model.label} has {model.info(name).shape}"
            return Problem(name, found, AGAIN)
        if hash_start(model, name) != weight.start:
            return Problem(name, f"{owner} are of another model than {model.label}: its values differ", AGAIN)
        return None

    def _resolve_name(self, name: str) -> str:
        return name if name in self.note.weights else self.note.alias.get(name, name)

    def _find_weight(self, name: str) -> WeightNote | None:
        return self.note.weights.get(self._resolve_name(name))

    def _require_weight(self, name: str) -> WeightNote:
        weight = self._find_weight(name)
        if weight is None:
            raise KeyError(name)
        return weight


def hash_start(model: Model, name: str) -> str:
    """Hash of the first elements of a weight, in float32, so that it does not depend on how the model is stored."""
    info = model.info(name)
    values = model.read_block(name, (0, min(START_ELEMENTS, info.elements))).to(torch.float32).contiguous()
    return xxhash.xxh3_64(values.view(torch.uint8).numpy().data).hexdigest()


def note_weights(statistics: Mapping[str, ChannelStatistic], model: Model) -> dict[str, WeightNote]:
    """The note's entry of each weight."""
    return {
        name: WeightNote(
            shape=model.info(name).shape, axis=entry.axis, tokens=entry.tokens, start=hash_start(model, name)
        )
        for name, entry in statistics.items()
    }


def list_uncovered(statistics: Mapping[str, ChannelStatistic]) -> tuple[str, ...]:
    """Weights without a token, as :attr:`StatisticsNote.uncovered` names them."""
    return tuple(
        f"{name}[{expert}]" if len(entry.tokens) > 1 else name
        for name, entry in statistics.items()
        for expert, tokens in enumerate(entry.tokens)
        if not tokens
    )


def save_statistics(folder: Path, note: StatisticsNote, statistics: Mapping[str, ChannelStatistic]) -> None:
    """Write both files of a vector into `folder`, which is there."""
    values = {name: entry.mean_square.contiguous() for name, entry in statistics.items()}
    (folder / f"{note.vector}.safetensors").write_bytes(save(values))
    text = format_json(note.model_dump(mode="json"))
    (folder / f"{note.vector}.json").write_text(text, encoding="utf-8")


def read_statistics(folder: Path, vector: str) -> StoredStatistics:
    """The statistics of `vector` in `folder`.

    Raises :class:`CheckpointError` or :class:`ManyProblemsError` for what is missing, unreadable, or not what the note
    says. Whether they are of the model that is merged is for :meth:`StoredStatistics.refuse_other`.
    """
    note = _read_note(folder, vector)
    path = folder / f"{vector}.safetensors"
    try:
        values = load(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(str(path), f"cannot be read ({' '.join(str(error).split())[:200]})", AGAIN) from error

    problems = []
    for name in sorted(note.weights.keys() | values.keys()):
        expected = _expect_shape(note.weights[name]) if name in note.weights else None
        found = (tuple(values[name].shape), values[name].dtype) if name in values else None
        if found != (expected and (expected, torch.float32)):
            shown = [f"{shape[0]} {shape[1]}" if shape else "nothing" for shape in (found,)]
            wanted = f"{expected} {torch.float32}" if expected else "nothing"
            problems.append(Problem(f"{path}: {name}", f"expected {wanted}, found {shown[0]}", AGAIN))
        elif not bool(torch.isfinite(values[name]).all()) or bool((values[name] < 0).any()):
            problems.append(Problem(f"{path}: {name}", "holds values that are no mean squares", AGAIN))

    refuse_if_any(problems[:LISTED])
    return StoredStatistics(folder=folder, note=note, values=values)


def has_statistics(folder: Path, vector: str) -> bool:
    """Say if `folder` has a file of `vector`."""
    return any((folder / f"{vector}{suffix}").exists() for suffix in (".json", ".safetensors"))


def refuse_no_folder(folder: Path) -> None:
    """Raise :class:`CheckpointError` unless there is such a folder."""
    if not folder.is_dir():
        remedy = ask_meant_path("Make them with `aftermix calibrate FILE -o DIR`.", folder)
        raise CheckpointError(str(folder), "there is no such folder of statistics", remedy)


def _expect_shape(weight: WeightNote) -> tuple[int, ...]:
    channels = weight.shape[weight.axis]
    return (weight.shape[0], channels) if len(weight.shape) == 3 else (channels,)


def _read_note(folder: Path, vector: str) -> StatisticsNote:
    path = folder / f"{vector}.json"
    refuse_no_folder(folder)
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "no vector"
        found = f"holds no statistics of vector '{vector}', but of: {there}"
        remedy = f"Set `{join_place('vectors', vector, 'calibration')}`, and run `aftermix calibrate` again"
        raise CheckpointError(str(folder), found, f"{remedy}; or set `merge: {{uncalibrated: magnitude}}`.")

    try:
        note = StatisticsNote.model_validate(read_json(path, remedy=AGAIN))
        if any(not 0 <= weight.axis < len(weight.shape) for weight in note.weights.values()):
            raise ValueError("an axis beyond a shape")
    except (ValidationError, ValueError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        found = f"does not describe statistics that this version reads ({first})"
        raise CheckpointError(str(path), found, AGAIN) from error
    return note
