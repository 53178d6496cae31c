"""`OpenedMerges`: models of a file and what is prepared of its vectors, from which every measured merge is streamed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from aftermix.checkpoints.model import Model
from aftermix.checkpoints.model_files import find_tokenizer_folder
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.search.settings import apply_settings, leaves_vectors_as_they_are
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.merging.prepared_gpu import ResidentVectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.sharing.vectors import prepare_shared_vectors
from aftermix.runs.trials import Settings

Place = Callable[[str], torch.Tensor | None]
"""The live parameter that a tensor fills as it is, flat."""
OPENER = f"{__name__}:open_in_engine"
"""The function that an engine's own processes call, with an :class:`OpeningPlan` as bytes."""


@dataclass(frozen=True)
class MergedTensors:
    """A merge on its way into a live model."""

    tensors: Iterable[tuple[str, torch.Tensor]]
    unchanged: frozenset[str] = frozenset()
    """Names of tensors that are not among them: they keep the base's values."""


@dataclass(frozen=True)
class OpenedMerges:
    """The merge of a file, opened in this process."""

    config: Config
    merger: Merger
    """The merge under the file's own settings."""
    prepared: PreparedVectors | ResidentVectors | None
    """None where the vectors are read anew for every merge."""

    def build_merger(self, settings: Settings) -> Merger:
        """The merge under the settings of one point; masks and noise are those of the file's seed."""
        if not settings:
            return self.merger

        recipe = self.build_recipe(settings)
        if self.prepared is not None:
            return self.prepared.with_recipe(recipe).merger
        return Merger.build(self.merger.pool, recipe, statistics=self.merger.statistics)

    def build_recipe(self, settings: Settings) -> MergeRecipe:
        """The recipe under the settings of one point."""
        if not settings:
            return self.merger.recipe
        config = self.build_config(settings)
        return MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)

    def build_config(self, settings: Settings) -> Config:
        """The configuration under the settings of one point."""
        return apply_settings(self.config, settings)


class MergeOrder(Protocol):
    """Words of one merge. They can be pickled, and hold no tensor."""

    def stream(self, merges: OpenedMerges, place: Place) -> MergedTensors:
        """The tensors of the merge, made in this process; none is read before the first is asked for."""


@dataclass(frozen=True)
class OpeningPlan:
    """The models and vectors that a process opens."""

    config: Config
    for_search: bool = True
    """False where nothing is left out by default, as in a merge of its own."""
    prepares: bool = False
    """True where vectors are prepared once."""
    shared: Path | None = None
    """Folder of prepared vectors that processes of this machine have in common; None where each has its own."""


def plan_opening(config: Config, recipe: MergeRecipe, settings: Iterable[str]) -> OpeningPlan:
    """The opening for a search over the settings of those names: prepared, unless each point needs the vectors anew."""
    return OpeningPlan(config, prepares=leaves_vectors_as_they_are(recipe.method, settings))


def prepare_opened_vectors(merger: Merger, opening: OpeningPlan) -> PreparedVectors:
    """The vectors, prepared for this process or shared with others."""
    return prepare_vectors(merger) if opening.shared is None else prepare_shared_vectors(merger, opening.shared)


@dataclass(frozen=True)
class EngineMerges:
    """Models and vectors as an engine's own process has them."""

    merges: OpenedMerges

    @property
    def frame(self) -> Model:
        """The model whose architecture is scored."""
        return self.merges.merger.pool.frame

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer that the result will have."""
        return find_tokenizer_folder(self.merges.merger.pool)

    def stream(self, order: bytes, place: Place) -> tuple[Iterable[tuple[str, torch.Tensor]], frozenset[str]]:
        """The tensors of the merge of the pickled `order`, and names of those that keep the base's values."""
        asked: MergeOrder = pickle.loads(order)  # noqa: S301 - of the process that began this one
        merged = asked.stream(self.merges, place)
        return merged.tensors, merged.unchanged


def open_in_engine(plan: bytes) -> EngineMerges:
    """Open what the pickled :class:`OpeningPlan` says. Raises as the run's own opening does."""
    asked: OpeningPlan = pickle.loads(plan)  # noqa: S301 - of the process that began this one
    config = asked.config
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=asked.for_search)
    merger = open_merger(config, open_pool(config), recipe)
    return EngineMerges(OpenedMerges(config, merger, prepare_opened_vectors(merger, asked) if asked.prepares else None))
