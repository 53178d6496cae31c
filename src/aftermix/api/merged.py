"""One merge: as tensors, as a living model, or as a model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from aftermix.api.manners import preserve_process
from aftermix.checkpoints.model_files import find_tokenizer_folder, writes_text
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, EvaluateConfig
from aftermix.config.places import Weight, describe_weight
from aftermix.extras import refuse_missing_extra
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe, check_weights
from aftermix.merging.stream import stream_merged_tensors


class Merged:
    """A merge at fixed weights.

    Nothing is read before :meth:`tensors`, :meth:`model` or :meth:`save`. ::

        merged = pool.merge({"ja": 0.4, "math": 0.3}, method="ties", density=0.3)
        norms = {name: tensor.norm() for name, tensor in merged.tensors()}
        merged.save("models/merged")
    """

    def __init__(self, config: Config) -> None:
        """`config`: base, vectors with their weights, and the merge.

        Raises :class:`AftermixError` for a method or option that does not exist, and for weights that the method cannot
        take.
        """
        self.config = config
        self._recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
        check_weights(self._recipe, self.weights)

    @property
    def weights(self) -> dict[str, Weight]:
        """Merge weight by vector: a number, or rules by the place of a tensor."""
        return {name: vector.weight for name, vector in self.config.vectors.items()}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of everything that the merged model has, in order of name and in the stored type.

        One tensor at a time is in memory; `dict(merged.tensors())` holds all. Raises :class:`AftermixError` for
        checkpoints that do not fit.
        """
        return stream_merged_tensors(self._open_merger(), self.weights)

    @preserve_process()
    def model(self, *, model_class: str | None = None, device: str = "auto", dtype: str = "auto") -> Any:
        """The merge as a model of transformers, with its generation settings, ready to run.

        `model_class` names its class; left out, it is a causal language model, or of a base that generates no text what
        its `config.json` names. `device` and `dtype` are those of `evaluate:`: CUDA where there is one; float32 on a
        CPU, else the base's type.
        """
        refuse_missing_extra("search", what="Merged.model()")
        from aftermix.evaluation.engines.hf import HuggingFaceEngine  # here: tensors need no transformers

        merger = self._open_merger()
        pool, tokenizer_folder = merger.pool, find_tokenizer_folder(merger.pool)
        settings = EvaluateConfig.model_validate({"tasks": ["none"], "device": device, "dtype": dtype})
        if model_class is None and not writes_text(pool.frame.config):
            model_class = pool.frame.config["architectures"][0]

        if model_class is None:
            engine = HuggingFaceEngine.open(pool.frame, tokenizer_folder=tokenizer_folder, config=settings)
        else:
            settings = settings.model_copy(update={"model_class": model_class})
            engine = HuggingFaceEngine.open_scored(pool.frame, tokenizer_folder=tokenizer_folder, config=settings)
        engine.load(stream_merged_tensors(merger, self.weights))
        return engine.lm.model

    @preserve_process()
    def save(self, folder: str | Path, *, log: Callable[[str], object] = lambda _: None) -> Path:
        """Write the model folder `folder`, as `aftermix merge` does, and return it; `log` is told what it tells.

        Raises :class:`AftermixError` with nothing written.
        """
        from aftermix.jobs.merge.command import merge

        return merge(self.config, Path(folder), log=log)

    @preserve_process()
    def save_adapter(
        self, folder: str | Path, *, rank: int | None = None, log: Callable[[str], object] = lambda _: None
    ) -> Path:
        """Write a merge of LoRA adapters as the adapter `folder`, as `aftermix merge --as-adapter`, and return it.

        No module gets more than `rank`. Ranks and errors are in its `adapter.json`. Raises :class:`AftermixError` with
        nothing written.
        """
        from aftermix.jobs.merge.adapter import merge_as_adapter

        merge_as_adapter(self.config, Path(folder), rank=rank, log=log)
        return Path(folder)

    def _open_merger(self) -> Merger:
        return open_merger(self.config, open_pool(self.config), self._recipe)

    def __repr__(self) -> str:
        weights = ", ".join(f"{name}={describe_weight(weight)}" for name, weight in self.weights.items())
        return f"Merged({self._recipe.method.name}: {weights})"

    def _repr_html_(self) -> str:
        from aftermix.report.notebook.tables import tabulate_merge

        return tabulate_merge(self._recipe.method.name, self.config.merge.options, self.weights)
