"""Experts as the base sees them: under its names, in its layout, with the rows of one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aftermix.checkpoints.alignment.exclusion import (
    Exclusions,
    build_exclusion_view,
    format_patterns,
    measures_whole_models,
    propose_exclusion,
    read_exclusions,
)
from aftermix.checkpoints.alignment.families.renames import RenamedView, build_renamed_view
from aftermix.checkpoints.alignment.fused import FusedView, build_fused_view
from aftermix.checkpoints.alignment.mismatches import find_learned_integers, find_misalignments, summarise_faults
from aftermix.checkpoints.alignment.prefix import (
    Prefixes,
    PrefixView,
    build_prefix_view,
    format_yaml_map,
    propose_prefixes,
    restore_own_names,
)
from aftermix.checkpoints.alignment.ties import add_second_names, untie_heads
from aftermix.checkpoints.alignment.tokens import is_head, list_token_tensors
from aftermix.checkpoints.alignment.union.rows import UNION, unite_vocabularies
from aftermix.checkpoints.alignment.view import ModelView, describe_views, summarise_names
from aftermix.checkpoints.alignment.vocabulary import find_tokens_without_rows, unify_vocabularies
from aftermix.checkpoints.model import Model, read_tensor
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError, ManyProblemsError, Problem, ask_meant, join_place


@dataclass(frozen=True)
class AlignedModels:
    """Base and experts that share names, shapes and rows, with the problems of those that do not."""

    base: Model | None
    experts: dict[str, Model]
    problems: list[Problem]
    unlike: frozenset[str] = frozenset()
    """Vectors that are refused for their vocabulary."""


def align(base: Model | None, experts: Mapping[str, Model], config: Config) -> AlignedModels:
    """Present every expert as the base (or, without one, the first expert) needs it; what fits is returned as it is.

    An expert that cannot be brought into line stays as it was opened, and its problems say why.
    """
    problems: list[Problem] = []
    base, experts = _leave_out_strays(base, experts)
    views = dict(experts)
    first = min(experts, default=None) if base is None else None
    frame = base if base is not None else experts[first] if first is not None else None
    if frame is None or (base is None and config.base):  # a base that could not be opened is told already
        return AlignedModels(base, views, problems)

    views = {name: _name_as_frame(frame, expert, name, config, problems) for name, expert in experts.items()}
    exclusions = read_exclusions(config)
    base, views = _match_tensors(frame, views, config, exclusions, has_base=base is not None)

    # Names and layouts are the base's by now, so that rows can be compared tensor by tensor.
    policy = _find_policy(config, problems)
    try:
        if policy == UNION and UNION not in config.vectors:
            unified = unite_vocabularies(base, views, multiple=config.merge.vocabulary_multiple or 1)
        else:
            unified = unify_vocabularies(base, views, policy, excluded=exclusions.everywhere)
    except AftermixError as error:
        return AlignedModels(base, views, [*problems, error.problem])
    problems += dict.fromkeys(unified.problems.values())

    # A refused vocabulary explains the shapes of its tensors: they are no faults of their own.
    frame = unified.base or next(iter(unified.experts.values()))
    for name, expert in unified.experts.items():
        if name == first:
            continue
        explained = {*list_token_tensors(frame)} if name in unified.problems or "base" in unified.problems else set()
        faults = _find_faults(frame, expert, name, config)
        problems += summarise_faults([fault for fault in faults if fault.where not in explained])
        problems += find_learned_integers(frame, expert, vector=name, excluded=exclusions.everywhere)
        if config.vectors[name].role == "instruction" and policy is None and name not in unified.problems:
            problems += find_tokens_without_rows(frame, expert, name)
    return AlignedModels(unified.base, unified.experts, problems, frozenset(unified.problems))


def _match_tensors(
    frame: Model, views: Mapping[str, Model], config: Config, exclusions: Exclusions, *, has_base: bool
) -> tuple[Model | None, dict[str, Model]]:
    """Base and experts that have the same tensors: second names, what is excluded, and heads that a tie stood for.

    Without a base (`has_base` False) `frame` is the first of the `views`, and stays one of them.
    """
    first = None if has_base else min(views)
    frame = add_second_names(frame, [view for name, view in views.items() if name != first])
    matched = {name: frame if name == first else add_second_names(view, [frame]) for name, view in views.items()}

    if has_base:  # whose values excluded tensors keep
        aligns_rows = config.merge.vocabulary is not None
        matched = {
            name: build_exclusion_view(frame, view, exclusions, aligns_rows=aligns_rows)
            for name, view in matched.items()
        }

    untied = untie_heads(frame, matched)  # before rows are moved, for the two names then have rows of their own
    if has_base:
        return untied, matched
    return None, matched | {name: untied for name in matched if name == first}


def select_reading_base(base: Model | None, vector: VectorConfig) -> Model | None:
    """The base as a vector names it that may be stored as a difference from it."""
    return restore_own_names(base, vector.prefix) if base is not None and vector.prefix else base


def describe_alignment(base: Model | None, experts: Mapping[str, Model]) -> list[str]:
    """Lines on what was mapped, aligned, passed through and ignored, for a terminal and for `lock.json`; often none."""
    lines = [f"base {fact}" for fact in describe_views(base)] if base is not None else []
    lines += [f"vector '{name}' {fact}" for name, expert in experts.items() for fact in describe_views(expert)]

    frame = base if base is not None else next(iter(experts.values()))
    passed = [info.name for info in frame.tensors.values() if not info.mergeable]
    if passed:
        lines.append(f"passed through from the base, for they hold no learned numbers: {summarise_names(passed)}")

    for name, expert in experts.items():
        stored = [tensor for tensor in passed if expert is not frame and expert.has(tensor)]
        other = [tensor for tensor in stored if not _equal(frame, expert, tensor)]
        if other:
            lines.append(f"vector '{name}' differs from the base in what passes through: {summarise_names(other)}")
    return lines


def _leave_out_strays(base: Model | None, experts: Mapping[str, Model]) -> tuple[Model | None, Mapping[str, Model]]:
    """The models without what their shards hold, their index does not name, and no other of them has.

    transformers looks for the names of its model in all shards, whatever the index says: what several models have is
    theirs, and what one alone has is a leftover of whoever wrote its shards.
    """
    models = [model for model in (base, *experts.values()) if model is not None]

    def settle(model: Model) -> Model:
        if not isinstance(model, Checkpoint) or not model.unindexed or len(models) == 1:
            return model
        others = [other for other in models if other is not model]
        strays = [name for name in sorted(model.unindexed) if not any(other.has(name) for other in others)]
        return model.leave_out(strays)

    return settle(base) if base is not None else None, {name: settle(expert) for name, expert in experts.items()}


def _find_policy(config: Config, problems: list[Problem]) -> str | None:
    """Name of the vocabulary that the result has, as far as the file names one that exists."""
    policy = config.merge.vocabulary
    if policy in (None, "base", UNION, *config.vectors):
        return policy
    known = ["base", *config.vectors]
    remedy = f"Name one of: {', '.join(known)}. Or write `{UNION}`, for the tokens of all."
    remedy = ask_meant(remedy, policy, [*known, UNION])
    problems.append(Problem("merge.vocabulary", f"there is no vector '{policy}'", remedy))
    return None


def _name_as_frame(frame: Model, expert: Model, name: str, config: Config, problems: list[Problem]) -> Model:
    """The expert under the frame's names and in its layout; the frame itself as it is."""
    prefixes = config.vectors[name].prefix
    if expert is not frame:
        return _view_expert(frame, expert, prefixes, name, problems)
    if prefixes:
        problems.append(Problem(join_place("vectors", name, "prefix"), "has no base to map to", "Add `base: PATH`."))
    return expert


def _view_expert(frame: Model, expert: Model, prefixes: Prefixes | None, name: str, problems: list[Problem]) -> Model:
    try:
        named = build_prefix_view(frame, expert, prefixes, vector=name) if prefixes else expert
        return build_fused_view(frame, build_renamed_view(frame, named), vector=name)
    except ManyProblemsError as error:
        problems.extend(error.problems)
        return expert


def _find_faults(frame: Model, expert: Model, name: str, config: Config) -> list[Problem]:
    """Problems of an expert that does not align; the entry of the file that would align it, instead of every name."""
    prefixes = config.vectors[name].prefix
    faults = find_misalignments(frame, expert, vector=name, mapped=bool(prefixes))
    missing = [tensor for tensor, info in frame.tensors.items() if not info.computed and not expert.has(tensor)]
    own = [tensor for tensor, info in expert.tensors.items() if not info.computed and tensor not in expert.alias]
    foreign = [tensor for tensor in own if not frame.has(tensor)]
    if not faults:
        return faults

    # A list of all the names would hide that one line of the configuration is missing.
    proposal = propose_prefixes(frame, expert) if (foreign or missing) and not prefixes else None
    if proposal is None or not _aligns(frame, expert, proposal, name):
        return _propose_to_exclude(frame, expert, name, config, faults, missing=missing, foreign=foreign) or faults

    others = (
        f"has other names than the base: {summarise_names(foreign)}"
        if foreign
        else f"lacks a part: {summarise_names(missing)}"
    )
    remedy = f"Add to `{join_place('vectors', name)}`: `prefix: {format_yaml_map(proposal)}`."
    return [Problem(expert.label, f"vector '{name}' {others}", remedy)]


def _propose_to_exclude(
    frame: Model,
    expert: Model,
    name: str,
    config: Config,
    faults: list[Problem],
    *,
    missing: list[str],
    foreign: list[str],
) -> list[Problem]:
    """One line with the patterns that leave the rest in line; none where `faults` are of other kinds, or many."""
    shared = [tensor for tensor in frame.tensors if expert.has(tensor)]
    reshaped = [tensor for tensor in shared if frame.info(tensor).shape != expert.info(tensor).shape]
    explained = {*missing, *foreign, *reshaped, "..."}
    if any(fault.where not in explained for fault in faults) or (reshaped and measures_whole_models(config)):
        return []
    if config.base is None:  # whose values excluded tensors would keep
        return []
    patterns = propose_exclusion(frame.tensors, missing=missing, extra=foreign, reshaped=reshaped)
    if patterns is None:
        return []

    told = {
        "lacks a part of the base": missing,
        "has a part that the base lacks": foreign,
        "has a head of another shape": reshaped,
    }
    found = "; ".join(f"{text}: {summarise_names(names)}" for text, names in told.items() if names)
    for_search = config.evaluate is not None and config.mixture is None
    entry = format_patterns([*config.merge.exclusions(for_search=for_search), *patterns])
    remedy = f"If the rest was trained from this base, leave that out: set in `merge`: `exclude: {entry}`."
    return [Problem(expert.label, f"vector '{name}' {found}", remedy)]


def _aligns(frame: Model, expert: Model, prefixes: Prefixes, name: str) -> bool:
    """Tell whether `prefixes` leaves nothing wrong but the number of rows, and no head of the base to itself."""
    problems: list[Problem] = []
    view = _view_expert(frame, _unwrap_views(expert), prefixes, name, problems)
    named = view.inner if isinstance(view, FusedView) else view
    named = named.inner if isinstance(named, RenamedView) else named
    if problems or not isinstance(named, PrefixView):
        return False

    rows = set(list_token_tensors(frame))
    wrong = [fault for fault in find_misalignments(frame, view, vector=name, mapped=True) if fault.where not in rows]
    return not wrong and not any(is_head(tensor) for tensor in named.tensors.keys() - named.source.keys())


def _unwrap_views(model: Model) -> Model:
    return _unwrap_views(model.inner) if isinstance(model, ModelView) else model


def _equal(ours: Model, theirs: Model, name: str) -> bool:
    return torch.equal(read_tensor(ours, name), read_tensor(theirs, name))
