"""The base and the experts of one job, aligned: tensors by name, differences in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from aftermix.checkpoints.alignment.align import align, select_reading_base
from aftermix.checkpoints.alignment.exclusion import read_exclusions
from aftermix.checkpoints.alignment.lineage import find_lineage
from aftermix.checkpoints.alignment.recorded_base import (
    BaseDigests,
    compare_recorded_base,
    holds_recorded_values,
    read_base_record,
)
from aftermix.checkpoints.alignment.view import stores_difference
from aftermix.checkpoints.companions.module_weights import ModuleWeights, examine_modules
from aftermix.checkpoints.formats.distributed.naming import NameMap
from aftermix.checkpoints.formats.stacked.model import stack_blocks
from aftermix.checkpoints.formats.trained_expert import build_trained_expert, find_own_vector, have_one_layout
from aftermix.checkpoints.model import Model, Span, StoredDifference, TensorInfo
from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.open_model import open_model
from aftermix.config import Config
from aftermix.errors import AftermixError, CheckpointError, InputFaultError, Problem, refuse_if_any


@dataclass(frozen=True)
class ModelPool:
    """Aligned checkpoints. `frame` gives the result its names, shapes, types and configuration."""

    base: Model | None
    experts: dict[str, Model]
    """By vector name, in order of name, so that no sum depends on the order of the YAML file."""
    instruction: str | None = None
    """The vector whose tokenizer, chat template and generation settings the result takes."""
    vocabulary: str | None = None
    """`base`, or the vector whose rows the result has: then the tokenizer is its own."""
    chat_template: str | None = None
    """Chat template that the recipe asks for: `auto` or the template itself."""
    confirmed: frozenset[str] = frozenset()
    """Vectors whose own record says that they were trained from this base, directly or through others."""
    lineages: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folders of the models between the base and a vector that was trained from one of them, its own base first."""
    modules: tuple[ModuleWeights, ...] = ()
    """Modules of sentence-transformers with weights, which are merged beside the model."""

    @property
    def frame(self) -> Model:
        """The base; without one (`linear`), the first expert by name."""
        return self.base or next(iter(self.experts.values()))

    @cached_property
    def layout(self) -> list[TensorInfo]:
        """Stored tensors of the frame, in order of name."""
        return list(self.frame.tensors.values())

    @cached_property
    def _differences(self) -> dict[str, StoredDifference]:
        """Experts that need no subtraction, by vector."""
        return {
            vector: expert
            for vector, expert in self.experts.items()
            if isinstance(expert, StoredDifference) and stores_difference(expert)
        }

    @property
    def parameters(self) -> int:
        """Elements of the frame, tied embeddings counted once."""
        return sum(info.elements for info in self.layout if info.name not in self.frame.alias)

    def read_base_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the frame's flattened tensor; read-only, not yet widened."""
        return self.frame.read_block(name, span)

    def read_expert_block(self, name: str, vector: str, span: Span, *, out: torch.Tensor) -> torch.Tensor:
        """Elements `span` of the expert itself, widened to float32 into `out`."""
        return out.copy_(self.experts[vector].read_block(name, span))

    def read_difference_block(
        self, name: str, vector: str, span: Span, *, base: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """Elements `span` of expert - base in float32 into `out`; `base` is the base's block, widened."""
        if vector not in self._differences:
            return self.read_expert_block(name, vector, span, out=out).sub_(base)

        difference = self._differences[vector].difference(name, span)
        return out.zero_() if difference is None else out.copy_(difference)

    def read_spans(self, name: str, vector: str, spans: Sequence[Span], *, difference: bool) -> torch.Tensor:
        """Several short runs of the expert, or of its difference from the base, as one float32 tensor."""
        if difference and vector in self._differences:
            differences = [self._differences[vector].difference(name, span) for span in spans]
            zeros = (torch.zeros(end - start) for start, end in spans)
            return torch.cat([zero if part is None else part for part, zero in zip(differences, zeros, strict=True)])

        expert = torch.cat([self.experts[vector].read_block(name, span) for span in spans]).to(torch.float32)
        if not difference:
            return expert
        return expert.sub_(torch.cat([self.frame.read_block(name, span) for span in spans]).to(torch.float32))

    def refuse_non_finite_inputs(self, name: str, span: Span, *, vectors: Iterable[str]) -> None:
        """Raise :class:`InputFaultError` naming the model whose elements `span` hold NaN or Inf, if one does."""
        refuse_non_finite(self.frame.read_block(name, span), name, self.frame.label, error=InputFaultError)
        for vector in vectors:
            expert, owner = self.experts[vector], f"vector '{vector}' ({self.experts[vector].label})"
            refuse_non_finite(expert.read_block(name, span), name, owner, error=InputFaultError)


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether no element is NaN or Inf."""
    return not tensor.is_floating_point() or math.isfinite(find_largest_magnitude(tensor))


def find_largest_magnitude(tensor: torch.Tensor) -> float:
    """The largest magnitude; NaN or Inf when an element is, 0 when there is none."""
    if tensor.numel() == 0:
        return 0.0
    low, high = torch.aminmax(tensor)  # NaN propagates through both
    return max(abs(float(low)), abs(float(high)))


def refuse_non_finite(
    tensor: torch.Tensor, name: str, owner: str, *, error: type[CheckpointError] = CheckpointError
) -> None:
    """Raise `error` naming tensor, owner and count when `tensor` holds NaN or Inf."""
    if is_finite(tensor):
        return
    count = int((~torch.isfinite(tensor)).sum())
    remedy = "Use an earlier checkpoint of that model, or train it again."
    raise error(name, f"{owner} holds {count} NaN or Inf values", remedy)


@dataclass(frozen=True)
class PoolExamination:
    """Checkpoints of a configuration, as far as they open and align, with their faults collected instead of raised."""

    pool: ModelPool | None
    """There when every model could be opened."""
    opened: tuple[Model, ...]
    problems: list[Problem]
    unlike: frozenset[str] = frozenset()
    """Vectors that are refused for their vocabulary."""


def open_pool(config: Config) -> ModelPool:
    """Open and align every checkpoint of `config`; no weights are read.

    Raises :class:`ManyProblemsError` with every fault of every input, not only the first.
    """
    examination = examine_pool(config)
    refuse_if_any(examination.problems)
    if examination.pool is None:
        raise CheckpointError("vectors", "no model is named", "Add `vectors:` with at least one model.")
    return examination.pool


def examine_pool(config: Config, *, whole: bool = False) -> PoolExamination:
    """As :func:`open_pool`, with the problems returned.

    With `whole` the base is read, to compare all its values with those that experts record.
    """
    problems = list(_find_unreadable_patterns(config))
    base = _try_open(config.base, problems, names=config.tensor_names) if config.base else None
    vectors = {name: config.vectors[name] for name in sorted(config.vectors)}
    excluded = read_exclusions(config).named
    models = {
        name: _try_open(
            vector.model,
            problems,
            base=select_reading_base(base, vector),
            excluded=excluded,
            names=config.tensor_names,
        )
        for name, vector in vectors.items()
    }
    models = _stack_models(models, config, problems)
    records = _compare_records(base, models, config, whole=whole)
    problems += records.problems.values()
    models = _take_own_vectors(base, models, config, records, problems)
    opened = tuple(model for model in (base, *models.values()) if model is not None)

    # An expert of another base is told once, and not tensor by tensor.
    experts = {name: expert for name, expert in models.items() if expert is not None and name not in records.problems}
    alignment = align(base, experts, config)
    problems += alignment.problems
    frame = alignment.base or next(iter(alignment.experts.values()), None)
    modules: tuple[ModuleWeights, ...] = ()
    if frame is not None and experts:
        examined = examine_modules(frame, experts, with_base=alignment.base is not None, excluded=excluded)
        problems += examined.problems
        modules = examined.modules

    # A pool that lacks a model would be merged without it.
    complete = bool(experts or base) and len(experts) == len(models) and (base is not None or not config.base)
    pool = ModelPool(
        alignment.base,
        alignment.experts,
        _find_instruction(config),
        config.merge.vocabulary,
        config.merge.chat_template,
        frozenset(records.confirmed),
        records.lineages,
        modules,
    )
    return PoolExamination(pool if complete else None, opened, problems, alignment.unlike)


def _stack_models(
    models: Mapping[str, Model | None], config: Config, problems: list[Problem]
) -> dict[str, Model | None]:
    """The models, those with `layers` as stacks of their blocks; a vector has the blocks of its base."""
    stacked = dict(models)
    for name, vector in config.vectors.items():
        model, where = models[name], f"vectors.{name}.layers"
        if vector.layers is None or model is None:
            continue

        if config.base:
            found = "stacks blocks, and a vector has those of its base"
            problems.append(Problem(where, found, "Remove `base:`, and merge models themselves (`method: linear`)."))
            continue

        try:
            stacked[name] = stack_blocks(model, vector.layers, where=where)
        except AftermixError as error:
            problems.extend(error.problems)
            stacked[name] = None
    return stacked


@dataclass
class _RecordComparison:
    """Experts by what their records say of the base."""

    problems: dict[str, Problem] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    lineages: dict[str, tuple[Path, ...]] = field(default_factory=dict)


def _compare_records(
    base: Model | None, models: Mapping[str, Model | None], config: Config, *, whole: bool
) -> _RecordComparison:
    """Hold the record of each expert against the base, also through the models that it was trained from in turn."""
    found = _RecordComparison()
    if base is None:
        return found
    digests = BaseDigests(base)
    folders = [expert.folder for expert in models.values() if expert is not None]

    for name, expert in models.items():
        if expert is None:
            continue
        # Under the names that the expert was trained with.
        prefixes = config.vectors[name].prefix
        named = digests if not prefixes else BaseDigests(select_reading_base(base, config.vectors[name]) or base)
        comparison = compare_recorded_base(named, expert, vector=name, whole=whole)
        if comparison.problem is not None:
            record = read_base_record(expert.folder)
            lineage = find_lineage(record, named, folders=folders, whole=whole) if record else ()
            if lineage:
                found.lineages[name] = lineage
                found.confirmed.add(name)
            else:
                found.problems[name] = comparison.problem
        if comparison.is_confirmed:
            found.confirmed.add(name)
    return found


def _take_own_vectors(
    base: Model | None,
    models: Mapping[str, Model | None],
    config: Config,
    records: _RecordComparison,
    problems: list[Problem],
) -> dict[str, Model | None]:
    """The models, with each expert that has its own vector read from it; a vector of another base is a problem."""
    taken = dict(models)
    for name, expert in models.items():
        if base is None or expert is None or name in records.problems or isinstance(expert, StoredDifference):
            continue
        if expert.folder.resolve() == base.folder.resolve():
            continue
        named = select_reading_base(base, config.vectors[name]) or base
        try:
            taken[name] = _take_own_vector(named, expert, records.lineages.get(name, ()))
        except AftermixError as error:
            problems.extend(error.problems)
    return taken


def _take_own_vector(base: Model, expert: Model, lineage: Sequence[Path]) -> Model:
    """`expert` with the vector beside it, where one is that belongs to `base` or to the first model of `lineage`.

    Raises :class:`CheckpointError` for a vector of other weights or of another base.
    """
    vector = find_own_vector(expert.folder)
    if vector is None:
        return expert
    vector.refuse_other_model(expert)
    if not lineage:
        if not (vector.belongs_to(base) or holds_recorded_values(base, expert)):
            raise vector.explain_other_base(base)
        return build_trained_expert(expert, vector, base=base, origin=None)

    # Counted from the model between, which is the same vector only where both have the same tensors.
    origin = open_model(str(lineage[0]))
    if not vector.belongs_to(origin) or not have_one_layout(origin, base):
        return expert
    return build_trained_expert(expert, vector, base=base, origin=origin)


def _try_open(
    model: str,
    problems: list[Problem],
    *,
    base: Model | None = None,
    excluded: Callable[[str], bool] = lambda _: False,
    names: NameMap | None = None,
) -> Model | None:
    try:
        return open_model(model, base=base, excluded=excluded, names=names)
    except AftermixError as error:
        problems.extend(error.problems)
    return None


def _find_unreadable_patterns(config: Config) -> Iterator[Problem]:
    for pattern in config.merge.exclude or ():
        try:
            build_matcher([pattern], where="merge.exclude")
        except AftermixError as error:
            yield from error.problems


def _find_instruction(config: Config) -> str | None:
    names = sorted(name for name, vector in config.vectors.items() if vector.role == "instruction")
    return names[0] if names else None
