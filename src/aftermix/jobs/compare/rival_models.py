"""Finished models among the rivals: opened beside the vectors of the run, identified, streamed into the live model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from aftermix.checkpoints.alignment.tokens import extends
from aftermix.checkpoints.formats.content_hash import hash_all_weights
from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.model_files import find_tokenizer_folder, list_input_files
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import CheckpointError
from aftermix.jobs.orders.opened import MergedTensors, OpenedMerges, Place
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.stream import stream_merged_tensors

KEY = "the model"
"""Name of a rival among the vectors of its pool: no vector of a file has it."""


@dataclass(frozen=True)
class RivalModel:
    """A finished model beside the vectors of the run."""

    merge: MergeConfig
    """The file's own."""
    pool: ModelPool

    @classmethod
    def open(cls, config: Config, pool: ModelPool, model: str) -> RivalModel:
        """Open the model at `model` beside the vectors of `config`, which `pool` holds; headers alone are read.

        Raises :class:`AftermixError` for a folder that holds no model, and one of other shapes or another tokenizer
        than that which scores are measured with.
        """
        folder, used = locate(model), find_tokenizer_folder(pool)
        # Where the file names whose vocabulary holds, rows are brought into its order.
        if config.merge.vocabulary is None and folder.is_dir() and not extends(used, folder):
            found = f"numbers tokens otherwise than {used}, by which the winner is scored"
            raise CheckpointError(model, found, "Name a model of the same tokenizer.")
        vectors = {**config.vectors, KEY: VectorConfig(model=model)}
        return cls(config.merge, open_pool(config.model_copy(update={"vectors": vectors})))

    def refuse_non_finite(self) -> None:
        """Raise :class:`InputFaultError` naming the first tensor of the model that holds NaN or Inf; reads it whole."""
        for info in self.pool.layout:
            if info.elements:
                self.pool.refuse_non_finite_inputs(info.name, (0, info.elements), vectors=(KEY,))

    def identify(self) -> dict[str, str]:
        """Hash of each weight file by its name."""
        return hash_all_weights(self.pool.experts[KEY].files())

    def take_stamps(self) -> InputStamps:
        """Stamps of the files of the model: one that changes is a fault."""
        return InputStamps.take(list_input_files(self.pool))

    def stream(self, instruction: str | None, weight: float) -> Iterator[tuple[str, torch.Tensor]]:
        """The whole model, plus `weight` times the `instruction` vector where the file's merge leaves nothing out.

        `model + weight (instruction - base)`; tensors that `merge.exclude` names are the model's own.
        """
        if instruction is None:
            yield from stream_merged_tensors(self._build_merger((KEY,)), {KEY: 1.0})
            return

        vectors = (KEY, instruction)
        added = stream_merged_tensors(self._build_merger(vectors), {KEY: 1.0, instruction: weight})
        limited = self._build_merger(vectors, exclude=self.merge.exclusions(for_search=True))
        left_out = {info.name for info in self.pool.layout if not limited.moves(info)}
        if not left_out:
            yield from added
            return

        alone = stream_merged_tensors(self._build_merger((KEY,)), {KEY: 1.0})
        for (name, with_vector), (_, own) in zip(added, alone, strict=True):
            yield name, own if name in left_out else with_vector

    def _build_merger(self, vectors: tuple[str, ...], *, exclude: tuple[str, ...] = ()) -> Merger:
        common = {"method": "task_arithmetic", "exclude": exclude, "seed": self.merge.seed, "dtype": self.merge.dtype}
        merge = MergeConfig.model_validate(common | {"vocabulary": self.merge.vocabulary})
        return Merger.build(self.pool, MergeRecipe.from_config(merge), vectors=vectors)


@dataclass(frozen=True)
class RivalOrder:
    """The finished model called `model`, plus `weight` times the `instruction` vector."""

    model: str
    instruction: str | None
    weight: float

    def stream(self, merges: OpenedMerges, place: Place) -> MergedTensors:
        """As :meth:`RivalModel.stream`, of a model that is opened anew."""
        del place
        rival = RivalModel.open(merges.config, merges.merger.pool, self.model)
        return MergedTensors(rival.stream(self.instruction, self.weight))
