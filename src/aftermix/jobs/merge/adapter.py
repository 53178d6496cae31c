"""`aftermix merge --as-adapter`: a merge of LoRA adapters written as one adapter of the same base.

Sums are exact: `sum_i c_i s_i B_i A_i` has the factors of all vectors side by side, weights and scales folded into B.
What is not a sum (signs, masks, angles; DoRA) has no low rank, and gets the best factors of a rank, by SVD of the
merged difference, with the error measured. What a vector stores whole is stored whole, as the dense merge has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file

from aftermix.checkpoints.alignment.align import describe_alignment
from aftermix.checkpoints.companions.model_use import ModelUse, find_model_use
from aftermix.checkpoints.companions.rules import TOKENIZER, fits
from aftermix.checkpoints.formats.lora.adapter import WEIGHTS, LoraAdapter, TensorChange, compute_matrix_shape
from aftermix.checkpoints.formats.lora.config import CONFIG
from aftermix.checkpoints.formats.lora.factors import (
    Factors,
    SquaredError,
    factorise,
    measure_factor_error,
    measure_matrix_error,
)
from aftermix.checkpoints.formats.lora.writer import BIAS, PeftTensors
from aftermix.checkpoints.model import TensorInfo, hold_equal, read_tensor
from aftermix.checkpoints.model_files import read_companion_files
from aftermix.checkpoints.pool import ModelPool
from aftermix.checkpoints.writer import follow_links, stage_folder
from aftermix.config import Config
from aftermix.errors import Problem, join_place, refuse_if_any
from aftermix.jobs.merge.command import open_given_merge
from aftermix.jobs.merge.merged_tensor import compute_merged_difference, compute_merged_tensor, read_base_tensor
from aftermix.jobs.merge.model_card import build_model_card
from aftermix.jobs.provenance import format_recipe, lock
from aftermix.merging.blocks import start_threads
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import Weights
from aftermix.merging.rules.inter import weighted_mean, weighted_sum
from aftermix.merging.rules.intra import keep_all
from aftermix.runs.input_records import LOCK_FILE
from aftermix.runs.merged.adapter_records import ADAPTER_FILE, MergedAdapterRecord, ModuleFactorsRecord

DENSE = "Merge without --as-adapter."
TensorChanges = Mapping[str, TensorChange]
"""Of one tensor, by vector."""
SUMS = {(keep_all, weighted_sum), (keep_all, weighted_mean)}
"""Pairs of rules under which a merged difference is a sum of the vectors'."""


def merge_as_adapter(
    config: Config, output: Path, *, rank: int | None = None, log: Callable[[str], object] = lambda _: None
) -> MergedAdapterRecord:
    """Merge the adapters of `config` at their weights into the new adapter folder `output`; return what was written.

    No module gets more than `rank`; without it, as many as its vectors have together. Raises :class:`AftermixError`,
    with nothing written, for a vector that is no adapter, and for DoRA in an exact sum.
    """
    merger, weights, inputs = open_given_merge(config, output)
    merger.refuse_unfit_weights(weights)
    for line in describe_alignment(merger.pool.base, merger.pool.experts):
        log(line)
    job = _AdapterMerge(merger, weights, _list_adapters(merger, weights, rank=rank), rank)

    content = job.build()
    with stage_folder(output) as hidden:
        save_file(content.list_tensors(), hidden / WEIGHTS, metadata={"format": "pt"})
        for name, data in _build_companions(job, config, output).items():
            (hidden / name).write_bytes(data)
        inputs.refuse_changed()
        settings = content.format_settings(
            base_model=job.name_base(config.base), task_type=job.find_task_type(), turned=job.is_turned
        )
        (hidden / CONFIG).write_bytes(settings)  # last: without it no loader takes the folder for an adapter

    for line in describe_adapter(job.record):
        log(line)
    return job.record


def describe_adapter(record: MergedAdapterRecord) -> list[str]:
    """Lines for a terminal on ranks and errors."""
    modules = record.modules
    ranks = sorted({module.rank for module in modules.values()}) or [0]
    shown = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    line = f"adapter: {len(modules)} modules with factors, {shown}"
    if record.exact:
        lines = [f"{line}: exact, the factors of the vectors side by side"]
    else:
        worst = max(modules, key=lambda name: modules[name].relative_error)
        error = f"relative error {record.relative_error:.2%} in all"
        told = f"{modules[worst].relative_error:.2%} of {worst}"
        lines = [f"{line}: {error}, at most {told} (Frobenius, of the merged difference)"]
    if record.whole:
        lines.append(f"adapter: {len(record.whole)} tensors are stored whole, first {record.whole[0]}")
    return lines


@dataclass
class _AdapterMerge:
    """One merge of adapters: what it makes of each tensor."""

    merger: Merger
    weights: Weights
    adapters: Mapping[str, LoraAdapter]
    rank: int | None
    modules: dict[str, ModuleFactorsRecord] = field(default_factory=dict)
    errors: list[SquaredError] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)

    @property
    def is_sum(self) -> bool:
        """True where merged differences are sums of the vectors'."""
        return is_sum(self.merger)

    @cached_property
    def is_turned(self) -> bool:
        """PEFT's `fan_in_fan_out`: True where a layer that is no embedding holds its weight as (in, out)."""
        changes = [change.low_rank for adapter in self.adapters.values() for change in adapter.changes.values()]
        return any(change.transposed and not change.embedding for change in changes if change is not None)

    @property
    def record(self) -> MergedAdapterRecord:
        """Content of `adapter.json`."""
        total = SquaredError(sum(each.error for each in self.errors), sum(each.norm for each in self.errors))
        exact = all(m.factors == "concatenated" and m.relative_error == 0 for m in self.modules.values())
        return MergedAdapterRecord(
            format="aftermix adapter",
            version=1,
            method=self.merger.recipe.method.name,
            exact=exact,
            rank=self.rank,
            relative_error=total.relative,
            modules=self.modules,
            whole=tuple(self.whole),
        )

    def build(self) -> PeftTensors:
        """All tensors of the adapter."""
        content = PeftTensors(self.merger.pool.frame, self._rename)
        with start_threads(torch.get_num_threads()) as threads:
            for info in self.merger.pool.layout:
                changes = self._list_changes(info)
                if info.name in self.merger.pool.frame.alias or not changes or not self.merger.moves(info):
                    continue
                if any(self._is_whole(info, change) for change in changes.values()):
                    self._take_whole(content, info, threads)
                else:
                    self._take_factors(content, info, changes, threads)
        self._complete_modules(content)
        return content

    def _list_changes(self, info: TensorInfo) -> TensorChanges:
        active = self.merger.list_active(self.merger.weigh(info, self.weights))
        return {v: self.adapters[v].changes[info.name] for v in active if info.name in self.adapters[v].changes}

    def _is_whole(self, info: TensorInfo, change: TensorChange) -> bool:
        """Tell whether a vector has no factors for the tensor, or stores it beside them with other values.

        PEFT stores an embedding that has factors once more, as the base has it.
        """
        if change.low_rank is None or change.saved is None:
            return change.low_rank is None
        return not hold_equal(change.saved, read_tensor(self.merger.pool.frame, info.name))

    def _take_whole(self, content: PeftTensors, info: TensorInfo, threads: ThreadPoolExecutor) -> None:
        tensor = compute_merged_tensor(self.merger, info, self.weights, threads)
        self.whole.append(info.name)
        if info.name.endswith(BIAS):
            content.add_bias(info.name, tensor)
        else:
            content.add_whole(info.name, tensor)

    def _take_factors(
        self,
        content: PeftTensors,
        info: TensorInfo,
        changes: Mapping[str, TensorChange],
        threads: ThreadPoolExecutor,
    ) -> None:
        """Factors of one tensor, from those of the vectors where it is their sum, else from the merged difference."""
        low_ranks = {vector: change.low_rank for vector, change in changes.items() if change.low_rank is not None}
        coefficients = self._compute_coefficients(info)
        parts = [Factors.from_low_rank(low, coefficients.get(vector, 1.0)) for vector, low in low_ranks.items()]
        together = Factors.concatenate(parts)
        most = self.rank or together.rank
        dtype = self.merger.recipe.dtype or torch.float32

        if self.is_sum and not any(change.magnitude_O is not None for change in changes.values()):
            found = together.truncate(most)
            stored = found.to(dtype)
            error = measure_factor_error(together, stored)
        else:
            difference = compute_merged_difference(self.merger, info, self.weights, threads)
            matrix_MN = difference.reshape(compute_matrix_shape(info.shape))
            found = factorise(matrix_MN, min(most, *matrix_MN.shape))
            stored = found.to(dtype)
            error = measure_matrix_error(matrix_MN, stored)

        low = next(iter(low_ranks.values()))
        content.add_factors(info, stored, turned=low.transposed, embedding=low.embedding or _is_tied(self, info))
        self.errors.append(error)
        self.modules[info.name.removesuffix(".weight")] = ModuleFactorsRecord(
            rank=stored.rank, factors="concatenated" if found is together else "svd", relative_error=error.relative
        )

    def _compute_coefficients(self, info: TensorInfo) -> dict[str, float]:
        """Factor of each vector's difference in a sum; none where the merge is no sum."""
        if not self.is_sum:
            return {}
        own = self.merger.weigh(info, self.weights)
        active = {vector: own[vector] for vector in self.merger.list_active(own)}
        averages = self.merger.recipe.method.rules[1] is weighted_mean
        scale = self.merger.recipe.scale / (sum(active.values()) if averages else 1.0)
        return {vector: weight * scale for vector, weight in active.items()}

    def _complete_modules(self, content: PeftTensors) -> None:
        """Store the rest of the modules of which one tensor is stored whole: PEFT has modules, not tensors."""
        for name in [name for name in self.whole if not name.endswith(BIAS)]:
            module = name.rpartition(".")[0]
            for info in self.merger.pool.layout:
                if info.name.rpartition(".")[0] != module or info.name in self.whole:
                    continue
                content.add_whole(info.name, read_base_tensor(self.merger, info))

        # A bias beside a weight that is stored whole belongs to that module.
        for module in [module for module in content.biases if module in content.whole]:
            content.tensors[f"base_model.model.{module}{BIAS}"] = content.biases.pop(module)

    def _rename(self, name: str) -> str:
        """The name of a base's tensor in the model that the adapters were trained on."""
        for adapter in self.adapters.values():
            swap = adapter.swap
            own = swap.drop + name.removeprefix(swap.add)
            if name.startswith(swap.add) and own != name and not adapter.base.has(own):
                return own
        return name

    def name_base(self, base: str | None) -> str | None:
        """Name of the base in the settings: what all adapters call it, else what the file does."""
        names = {adapter.settings.base_model_name_or_path for adapter in self.adapters.values()}
        return names.pop() or base if len(names) == 1 else base

    def find_task_type(self) -> object:
        """PEFT's `task_type`, where all adapters have the same."""
        kinds = {str((a.settings.model_extra or {}).get("task_type") or "") for a in self.adapters.values()}
        return (kinds.pop() or None) if len(kinds) == 1 else None


def is_sum(merger: Merger) -> bool:
    """Tell whether the merged difference of every tensor is a sum of the vectors' differences."""
    return merger.recipe.method.rules in SUMS and merger.recipe.operand_dtype is None


def _is_tied(job: _AdapterMerge, info: TensorInfo) -> bool:
    return info.name in job.merger.pool.frame.alias.values()


def _list_adapters(merger: Merger, weights: Weights, *, rank: int | None) -> dict[str, LoraAdapter]:
    """The vectors in use as adapters. Raises :class:`ManyProblemsError` naming each that is none, or not exact."""
    problems, adapters = [], {}

    for vector in merger.vectors:
        if weights.get(vector, 0.0) == 0.0:
            continue
        expert, where = merger.pool.experts[vector], join_place("vectors", vector)
        if not isinstance(expert, LoraAdapter):
            found = f"expected a LoRA adapter with the rows of its base, found another kind of model ({expert.label})"
            problems.append(Problem(where, found, f"Name an adapter. {DENSE}"))
        elif expert.settings.use_dora and rank is None and is_sum(merger):
            found = "expected an adapter of low rank, found DoRA, whose difference has the rank of its matrix"
            remedy = f"Give --rank N: the best factors of that rank, with their error told. {DENSE}"
            problems.append(Problem(where, found, remedy))
        else:
            adapters[vector] = expert

    if not adapters and not problems:
        problems.append(Problem("vectors", "all weigh 0, so that nothing is left to write", "Give a weight."))
    refuse_if_any(problems)
    return adapters


def _build_companions(job: _AdapterMerge, config: Config, output: Path) -> dict[str, bytes]:
    """Card, recipe, lock, record and tokenizer, by file name."""
    merger, pool, folder = job.merger, job.merger.pool, follow_links(output)
    beside = read_companion_files(pool, dtype=None)
    use = _find_use(pool, beside)
    return {
        **{name: data for name, data in beside.items() if fits(name, TOKENIZER)},
        "README.md": build_model_card(config, merger.recipe, job.weights, name=folder.name, use=use),
        "aftermix.yaml": format_recipe(config, merger.recipe, job.weights, folder=folder).encode(),
        LOCK_FILE: lock(pool, config).to_bytes(escaped=True),
        ADAPTER_FILE: job.record.to_bytes(escaped=True),
    }


def _find_use(pool: ModelPool, files: Mapping[str, bytes]) -> ModelUse:
    """The use of the adapter: PEFT's class of the base's."""
    use = find_model_use(pool.frame.config, files)
    model_class = "AutoPeftModelForCausalLM" if use.model_class == ModelUse().model_class else "AutoPeftModel"
    return ModelUse(model_class, use.reader_class, use.task, "peft")
