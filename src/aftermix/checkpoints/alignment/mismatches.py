"""Comparison of a model with the base that it is to be trained from: tensors, shapes, kinds; one list of problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from aftermix.checkpoints.alignment.families.settings import SettingDifference, compare_settings, pair_parts
from aftermix.checkpoints.alignment.ties import has_own_head
from aftermix.checkpoints.alignment.view import stores_difference, summarise_names
from aftermix.checkpoints.formats.ungathered import describe_ungathered
from aftermix.checkpoints.model import Model, hold_equal, read_tensor
from aftermix.errors import Problem

SIZES = ("model_type", "hidden_size", "num_hidden_layers")
HEADS_AND_EXPERTS = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "n_head",
    "num_heads",
    "num_experts_per_tok",
)
"""Configuration that must agree: the same shapes under other values are another function of the same tensors."""
PACKING_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json")
"""Files beside the weights by which early GPTQ and AWQ models say how they are packed."""
CONFIGURATION = "config.json"
LISTED = 5
"""Tensors named one by one before the rest is counted."""


def find_misalignments(base: Model, expert: Model, *, vector: str, mapped: bool = False) -> list[Problem]:
    """Every reason why `expert - base` is not a distribution vector. Empty when the two align.

    Element types may differ between floating-point models (the difference is taken in float32); shapes, names and
    integer tensors may not. `mapped` names come from a prefix map: a wrapper and its text model are then called
    differently.
    """
    remedy = "Was it trained from this base?"
    differences = [each for each in _compare_structure(base, expert) if not (mapped and each.key == "model_type")]
    problems = [_describe_setting(each, vector, remedy) for each in differences]

    missing = [name for name, info in base.tensors.items() if not info.computed and not expert.has(name)]
    own = [name for name, info in expert.tensors.items() if not info.computed and name not in expert.alias]
    extra = [name for name in own if not base.has(name)]
    problems += _list_problems(missing, vector, "has no such tensor, the base does", remedy)
    problems += _list_problems(extra, vector, "has this tensor, the base does not", remedy)
    problems += _find_untied_head(base, expert, vector)

    shared = [name for name, info in base.tensors.items() if not info.computed and expert.has(name)]
    problems += _find_ungathered(base, expert, shared, vector)
    reshaped = [
        name
        for name in shared
        if base.info(name).shape != expert.info(name).shape and base.info(name).elements and expert.info(name).elements
    ]
    problems += _list_shapes(reshaped, base, expert, vector, remedy)

    for name in shared:
        ours, theirs = base.info(name), expert.info(name)
        if ours.shape == theirs.shape and ours.mergeable != theirs.mergeable:
            found = f"vector '{vector}' holds {theirs.dtype}, base holds {ours.dtype}"
            problems.append(Problem(name, found, "Save both in floating point."))
    return problems


def _find_ungathered(base: Model, expert: Model, shared: Sequence[str], vector: str) -> list[Problem]:
    """Tensors that hold no numbers in one of the two alone."""
    ours = [name for name in shared if expert.info(name).elements and not base.info(name).elements]
    theirs = [name for name in shared if base.info(name).elements and not expert.info(name).elements]
    return [
        *describe_ungathered(ours, where=base.label, owner="the base"),
        *describe_ungathered(theirs, where=expert.label, owner=f"vector '{vector}'"),
    ]


def find_learned_integers(
    base: Model, expert: Model, *, vector: str, excluded: Callable[[str], bool] = lambda _: False
) -> list[Problem]:
    """Integers and flags that differ from the base's, for integers that differ were learned: packed weights, mostly.

    What a model computes for itself, a single number (a counter) and what is `excluded` may differ: the result has the
    base's. Such tensors are read.
    """
    if stores_difference(expert):
        return []
    kept = [info for info in base.tensors.values() if not (info.dtype.is_floating_point or info.computed)]
    differing = [
        info.name
        for info in kept
        if info.elements > 1
        and expert.has(info.name)
        and expert.info(info.name).shape == info.shape
        and not excluded(info.name)
        and not hold_equal(read_tensor(base, info.name), read_tensor(expert, info.name))
    ]
    if not differing:
        return []

    kind = str(base.info(differing[0]).dtype).removeprefix("torch.")
    beside = [name for name in PACKING_FILES if (expert.folder / name).is_file()]
    hint = f"; {beside[0]} beside it says that weights are packed" if beside else ""
    found = f"vector '{vector}' holds other integers ({kind}) than the base: {summarise_names(differing)}{hint}"
    remedy = "Integers are not averaged: name the models as they were before; in a merge, `exclude` keeps the base's."
    return [Problem(expert.label, found, remedy)]


def summarise_faults(faults: Sequence[Problem]) -> list[Problem]:
    """One line for a model of another size or kind, whose configuration explains what its tensors lack; else all."""
    explained = [fault for fault in faults if fault.where == CONFIGURATION]
    rest = [fault.where for fault in faults if fault.where != CONFIGURATION]
    if not explained or len(faults) == 1:
        return list(faults)

    first = explained[0]
    found = "; ".join(fault.found for fault in explained)
    tensors = f"; its tensors differ accordingly, first '{rest[0]}'" if rest else ""
    return [Problem(first.where, found + tensors, first.remedy)]


def list_remarks(base: Model, expert: Model, *, vector: str) -> list[Problem]:
    """Differences that do not stop a merge and that its user should know."""
    notes = list_setting_remarks(base, expert, vector=vector)
    kinds = [{str(info.dtype) for info in model.tensors.values() if info.mergeable} for model in (base, expert)]
    types = sorted(kinds[0] ^ kinds[1])
    if types:
        found = f"vector '{vector}' and the base are stored in different types ({', '.join(types)})"
        wide = any(info.dtype == torch.float64 for info in base.tensors.values())
        remedy = f"The difference is taken in float32{', of float64 tensors of the base in float64' if wide else ''}."
        notes.append(Problem(expert.label, found, remedy))
    return notes


def list_setting_remarks(base: Model, expert: Model, *, vector: str) -> list[Problem]:
    """Settings of the two configurations that decide what the same tensors compute, and differ."""
    remedy = "The merged model keeps the base's value."
    differences = compare_settings(base.config, expert.config)
    return [_describe_setting(each, vector, remedy) for each in differences if not _must_agree(each)]


def _find_untied_head(base: Model, expert: Model, vector: str) -> list[Problem]:
    """A head that the base does not store and the expert has trained apart has no place in the result."""
    return [
        Problem(
            head,
            f"vector '{vector}' has a head of its own, the base ties it to '{embedding}'",
            f"Save the base with a copy of '{embedding}' as '{head}'.",
        )
        for head, embedding in base.alias.items()
        if head not in base.tensors and has_own_head(expert, head, embedding)
    ]


def _compare_structure(base: Model, expert: Model) -> list[SettingDifference]:
    """Differences that make the two other functions of the same tensors."""
    sizes = [
        SettingDifference(f"{part}.{key}" if part else key, ours[key], theirs[key])
        for part, ours, theirs in pair_parts(base.config, expert.config)
        for key in SIZES
        if None not in (ours.get(key), theirs.get(key)) and ours[key] != theirs[key]
    ]
    return sizes + [each for each in compare_settings(base.config, expert.config) if _must_agree(each)]


def _must_agree(difference: SettingDifference) -> bool:
    values = difference.ours, difference.theirs
    return difference.key.rpartition(".")[2] in HEADS_AND_EXPERTS and None not in values


def _describe_setting(difference: SettingDifference, vector: str, remedy: str) -> Problem:
    ours, theirs = ("none" if value is None else value for value in (difference.ours, difference.theirs))
    return Problem(CONFIGURATION, f"vector '{vector}' has {difference.key} = {theirs}, base has {ours}", remedy)


def _list_shapes(names: list[str], base: Model, expert: Model, vector: str, remedy: str) -> list[Problem]:
    """A line for each tensor of another shape; one for all where a size of the whole model differs."""
    told = [
        Problem(name, f"vector '{vector}' is {expert.info(name).shape}, base is {base.info(name).shape}", remedy)
        for name in names
    ]
    if len(told) <= LISTED:
        return told
    first = told[0]
    return [Problem(first.where, f"{first.found}, and {len(told) - 1} more tensors have other shapes", remedy)]


def _list_problems(names: list[str], vector: str, fault: str, remedy: str) -> list[Problem]:
    problems = [Problem(name, f"vector '{vector}' {fault}", remedy) for name in names[:LISTED]]
    if len(names) > LISTED:
        found = f"vector '{vector}' {fault}: {len(names) - LISTED} more tensors like these, last '{names[-1]}'"
        problems.append(Problem("...", found, remedy))
    return problems
