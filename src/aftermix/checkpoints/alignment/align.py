"""Experts as the base sees them: under its names, in its layout, with the rows of one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aftermix.checkpoints.alignment.fused import FusedView, fused_view
from aftermix.checkpoints.alignment.mismatches import misalignments
from aftermix.checkpoints.alignment.prefix import (
    Prefixes,
    PrefixView,
    prefix_view,
    proposed_prefixes,
    under_own_names,
    yaml_map,
)
from aftermix.checkpoints.alignment.tokens import is_head, token_tensors
from aftermix.checkpoints.alignment.view import View, listed, view_facts
from aftermix.checkpoints.alignment.vocabulary import with_vocabulary
from aftermix.checkpoints.model import Model, read_tensor
from aftermix.checkpoints.names import matcher
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError, ManyProblemsError, Problem


@dataclass(frozen=True)
class Aligned:
    """Base and experts that share names, shapes and rows, with the problems of those that do not."""

    base: Model | None
    experts: dict[str, Model]
    problems: list[Problem]


def aligned(base: Model | None, experts: Mapping[str, Model], config: Config) -> Aligned:
    """Present every expert as the base (or, without one, the first expert) needs it; what fits is returned as it is.

    An expert that cannot be brought into line stays as it was opened, and its problems say why.
    """
    problems: list[Problem] = []
    found = dict(experts)
    first = min(experts, default=None) if base is None else None
    frame = base if base is not None else experts[first] if first is not None else None
    if frame is None or (base is None and config.base):  # a base that could not be opened is told already
        return Aligned(base, found, problems)

    for name, expert in experts.items():
        prefixes = config.vectors[name].prefix
        if name == first and prefixes:
            problems.append(Problem(f"vectors.{name}.prefix", "has no base to map to", "Add `base: PATH`."))
        elif name != first:
            found[name] = _viewed(frame, expert, prefixes, name, problems)

    policy = config.merge.vocabulary
    if policy not in (None, "base", *config.vectors):
        known = ", ".join(["base", *config.vectors])
        problems.append(Problem("merge.vocabulary", f"there is no vector '{policy}'", f"Name one of: {known}."))
        policy = None

    # Names and layouts are the base's by now, so that rows can be compared tensor by tensor.
    excluded = matcher(_kept(config), where="merge.exclude")
    try:
        spoken = with_vocabulary(base, found, policy, excluded=excluded)
    except AftermixError as error:
        return Aligned(base, found, [*problems, error.problem])
    problems += dict.fromkeys(spoken.problems.values())

    # A refused vocabulary explains the shapes of its tensors: they are no faults of their own.
    frame = spoken.base or next(iter(spoken.experts.values()))
    for name, expert in spoken.experts.items():
        if name != first:
            told = {*token_tensors(frame)} if name in spoken.problems or "base" in spoken.problems else set()
            faults = _faults(frame, expert, config.vectors[name].prefix, name)
            problems += [fault for fault in faults if fault.where not in told]
    return Aligned(spoken.base, spoken.experts, problems)


def read_against(base: Model | None, vector: VectorConfig) -> Model | None:
    """The base as a vector names it that may be stored as a difference from it."""
    return under_own_names(base, vector.prefix) if base is not None and vector.prefix else base


def alignment_lines(base: Model | None, experts: Mapping[str, Model]) -> list[str]:
    """Lines on what was mapped, aligned, passed through and ignored, for a terminal and for `lock.json`; often none."""
    lines = [f"base {fact}" for fact in view_facts(base)] if base is not None else []
    lines += [f"vector '{name}' {fact}" for name, expert in experts.items() for fact in view_facts(expert)]

    frame = base if base is not None else next(iter(experts.values()))
    passed = [info.name for info in frame.tensors.values() if not info.mergeable]
    if passed:
        lines.append(f"passed through from the base, for they hold no learned numbers: {listed(passed)}")

    for name, expert in experts.items():
        stored = [tensor for tensor in passed if expert is not frame and expert.has(tensor)]
        other = [tensor for tensor in stored if not _equal(frame, expert, tensor)]
        if other:
            lines.append(f"vector '{name}' differs from the base in what passes through: {listed(other)}")
    return lines


def _kept(config: Config) -> tuple[str, ...]:
    """Patterns that the file itself excludes from every merge that its jobs make.

    The baselines of a search measure models as they are, embeddings included.
    """
    whole_models = config.evaluate is not None and config.search.baselines
    return () if whole_models else config.merge.exclude or ()


def _viewed(frame: Model, expert: Model, prefixes: Prefixes | None, name: str, problems: list[Problem]) -> Model:
    try:
        named = prefix_view(frame, expert, prefixes, vector=name) if prefixes else expert
        return fused_view(frame, named, vector=name)
    except ManyProblemsError as error:
        problems.extend(error.problems)
        return expert


def _faults(frame: Model, expert: Model, prefixes: Prefixes | None, name: str) -> list[Problem]:
    """Problems of an expert that does not align; a prefix map that would align it, instead of every name."""
    faults = misalignments(frame, expert, vector=name, mapped=bool(prefixes))
    missing = [tensor for tensor, info in frame.tensors.items() if not info.computed and not expert.has(tensor)]
    own = [tensor for tensor, info in expert.tensors.items() if not info.computed and tensor not in expert.alias]
    foreign = [tensor for tensor in own if not frame.has(tensor)]
    if prefixes or not faults or not (foreign or missing):
        return faults

    # A list of all the names would hide that one line of the configuration is missing.
    proposal = proposed_prefixes(frame, expert)
    if proposal is None or not _aligns(frame, expert, proposal, name):
        return faults

    others = f"has other names than the base: {listed(foreign)}" if foreign else f"lacks a part: {listed(missing)}"
    remedy = f"Add to `vectors.{name}`: `prefix: {yaml_map(proposal)}`."
    return [Problem(expert.label, f"vector '{name}' {others}", remedy)]


def _aligns(frame: Model, expert: Model, prefixes: Prefixes, name: str) -> bool:
    """Tell whether `prefixes` leaves nothing wrong but the number of rows, and no head of the base to itself."""
    problems: list[Problem] = []
    view = _viewed(frame, _innermost(expert), prefixes, name, problems)
    named = view.inner if isinstance(view, FusedView) else view
    if problems or not isinstance(named, PrefixView):
        return False

    rows = set(token_tensors(frame))
    wrong = [fault for fault in misalignments(frame, view, vector=name, mapped=True) if fault.where not in rows]
    return not wrong and not any(is_head(tensor) for tensor in named.tensors.keys() - named.source.keys())


def _innermost(model: Model) -> Model:
    return _innermost(model.inner) if isinstance(model, View) else model


def _equal(ours: Model, theirs: Model, name: str) -> bool:
    return torch.equal(read_tensor(ours, name), read_tensor(theirs, name))
