"""Weights of sentence-transformers' modules as models of their own, base and experts aligned by name.

Tensors have the module's folder before their name: `2_Dense/linear.weight`. So patterns of `merge.exclude` reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aftermix.checkpoints.alignment.prefix import PrefixView
from aftermix.checkpoints.companions.sentence_modules import (
    MODULE_PICKLE,
    MODULE_WEIGHTS,
    MODULES_FILE,
    list_weighted_modules,
)
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.reader import Checkpoint, read_headers
from aftermix.checkpoints.safe_files import holds_file, take_stamp
from aftermix.errors import AftermixError, CheckpointError, Problem


@dataclass(frozen=True)
class ModuleWeights:
    """One module of a pool."""

    name: str
    """Its folder below that of the model."""
    base: Model
    """The base's weights; without a base, the first expert's."""
    experts: Mapping[str, Model]
    """By vector. One that has no such module has the base's weights."""


@dataclass(frozen=True)
class ModuleExamination:
    """Modules with weights of the models of a job, as far as they open and align, and what is wrong with the others."""

    modules: tuple[ModuleWeights, ...]
    problems: tuple[Problem, ...]


def examine_modules(
    frame: Model, experts: Mapping[str, Model], *, with_base: bool, excluded: Callable[[str], bool]
) -> ModuleExamination:
    """Open and align the weights of every module that the `modules.json` of `frame` names; `excluded` is not compared.

    A module whose weights are pickled in any model is a problem, and so are weights of an expert that have other names
    or shapes than the base's, or that no module of the base corresponds to.
    """
    modules: list[ModuleWeights] = []
    problems: list[Problem] = []
    for name in list_weighted_modules(frame.folder):
        try:
            module = _open_module(name, frame, experts, excluded)
        except AftermixError as error:
            problems += error.problems
            continue
        faults = list(_find_faults(module, frame, experts, with_base=with_base, excluded=excluded))
        problems += faults
        if not faults:
            modules.append(module)

    problems += _find_surplus(frame, experts, excluded)
    return ModuleExamination(tuple(modules), tuple(problems))


def _open_module(
    name: str, frame: Model, experts: Mapping[str, Model], excluded: Callable[[str], bool]
) -> ModuleWeights:
    base = _open_weights(frame.folder / name, name, frame.label)
    views: dict[str, Model] = {}
    for vector, expert in experts.items():
        if expert.folder == frame.folder or not _has_weights(expert.folder / name):
            views[vector] = base
            continue

        own = _open_weights(expert.folder / name, name, expert.label)
        kept = {
            tensor: stored
            for tensor, stored in own.source.items()
            if not excluded(tensor) or (base.has(tensor) and base.info(tensor).shape == own.info(tensor).shape)
        }
        tensors = {tensor: info for tensor, info in own.tensors.items() if tensor in kept}
        filled = {tensor: info for tensor, info in base.tensors.items() if tensor not in kept and excluded(tensor)}
        views[vector] = PrefixView(own.inner, base, dict(sorted((tensors | filled).items())), {}, (), kept)
    return ModuleWeights(name, base, views)


def _has_weights(folder: Path) -> bool:
    return any(holds_file(folder / name) for name in (MODULE_WEIGHTS, MODULE_PICKLE))


def _open_weights(folder: Path, name: str, label: str) -> PrefixView:
    """The tensors of one module; :class:`CheckpointError` where they are pickled or cannot be read."""
    file = folder / MODULE_WEIGHTS
    if not holds_file(file):
        found = f"expected {MODULE_WEIGHTS}, found {MODULE_PICKLE}, which can run code when it is opened"
        remedy = f"If you trust the source, load the model in sentence-transformers and save it again ({name})."
        raise CheckpointError(str(folder), found, remedy)

    infos = {info.name: info for info in read_headers(file)}
    stored = Checkpoint(folder, f"{label}/{name}", dict(sorted(infos.items())), {}, _stamps={file: take_stamp(file)})
    source = {f"{name}/{tensor}": tensor for tensor in stored.tensors}
    tensors = {shown: replace(stored.tensors[tensor], name=shown) for shown, tensor in source.items()}
    return PrefixView(stored, stored, tensors, {}, (), source)


def _find_faults(
    module: ModuleWeights,
    frame: Model,
    experts: Mapping[str, Model],
    *,
    with_base: bool,
    excluded: Callable[[str], bool],
) -> Iterator[Problem]:
    keep = f'Was it trained from this base? To keep the base\'s, add to `exclude` in `merge`: "{module.name}/*".'
    for vector, expert in module.experts.items():
        if not with_base and expert is module.base and experts[vector] is not frame:
            found = f"vector '{vector}' has no weights of the module {module.name}, which {frame.label} has"
            yield Problem(experts[vector].label, found, "Save both with sentence-transformers, or name a base.")
        ours, theirs = module.base.tensors, expert.tensors
        apart = sorted(
            name
            for name in ours.keys() | theirs.keys()
            if (name not in ours or name not in theirs or ours[name].shape != theirs[name].shape) and not excluded(name)
        )
        if apart:
            shapes = [str(side[apart[0]].shape) if apart[0] in side else "none" for side in (theirs, ours)]
            found = f"vector '{vector}' has {shapes[0]}, base has {shapes[1]}"
            yield Problem(apart[0], found, keep)


def _find_surplus(frame: Model, experts: Mapping[str, Model], excluded: Callable[[str], bool]) -> Iterator[Problem]:
    """Modules with weights that an expert has and the base has not: the result would be without them."""
    known = {*list_weighted_modules(frame.folder)}
    for vector, expert in experts.items():
        for name in list_weighted_modules(expert.folder):
            if name not in known and not excluded(f"{name}/"):
                found = f"vector '{vector}' has a module with weights that the base lacks, {name}"
                remedy = f'Give the base that module ({MODULES_FILE}), or leave it out: `exclude: ["{name}/*"]`.'
                yield Problem(expert.label, found, remedy)
