"""Excluded tensors keep the base's values, whatever a vector has there: nothing, other shapes, or more.

:func:`propose_exclusion` finds the patterns that an error message can offer for a part that one of the two lacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from aftermix.checkpoints.alignment.families.unloaded import is_dispensable
from aftermix.checkpoints.alignment.tokens import is_embedding, is_head, list_token_tensors
from aftermix.checkpoints.alignment.view import BlockReader, ModelView, summarise_names
from aftermix.checkpoints.model import Model, Span, TensorInfo
from aftermix.checkpoints.names import build_matcher
from aftermix.config import Config
from aftermix.errors import ConfigError

NameTest = Callable[[str], bool]
LEAST_COMMON = 4
"""A part is offered where a share of 1 / this of the base's names is in common."""
MOST_PATTERNS = 4
"""Patterns that a message offers; a part that needs more of them is listed by name."""


@dataclass(frozen=True)
class ExclusionView(ModelView):
    """An expert that has the base's values where it has no tensor, or one of another shape."""

    kept: frozenset[str]
    """Names that have the values of the frame."""

    def differs(self, name: str) -> bool:
        """Tell whether the expert has this tensor."""
        return name not in self.kept

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:
        """Elements `span` of the expert's tensor, or of the base's."""
        return absent(name, span) if name in self.kept else read(name, span)


@dataclass(frozen=True)
class Exclusions:
    """Patterns of a file as tests of a name."""

    named: NameTest
    """True for names that the file excludes."""
    everywhere: NameTest
    """True for those excluded from every merge of its jobs: the baselines of a search measure whole models."""


def read_exclusions(config: Config) -> Exclusions:
    """The exclusions of `config`; none where it has a pattern that cannot be read, which is told elsewhere."""
    try:
        named = build_matcher(config.merge.exclude or (), where="merge.exclude")
    except ConfigError:
        return Exclusions(lambda _: False, lambda _: False)
    return Exclusions(named, (lambda _: False) if measures_whole_models(config) else named)


def measures_whole_models(config: Config) -> bool:
    """Tell whether a search would measure models as they are, embeddings included: its baselines do."""
    return config.evaluate is not None and config.search.baselines


def build_exclusion_view(frame: Model, expert: Model, exclusions: Exclusions, *, aligns_rows: bool) -> Model:
    """`expert` with the values of `frame` where an excluded tensor has no counterpart; itself where all have one.

    Excluded tensors of `expert` that `frame` lacks are left out. What loaders leave in the file or compute counts as
    excluded where one of the two lacks it. With `aligns_rows` tensors with one row a token are
    left to the alignment of vocabularies.
    """
    rows = set(list_token_tensors(frame)) if aligns_rows else set()
    lacking = [name for name in frame.tensors if exclusions.named(name) and not expert.has(name)]
    reshaped = [
        name
        for name, info in frame.tensors.items()
        if name not in rows
        and expert.has(name)
        and expert.info(name).shape != info.shape
        and (exclusions.everywhere(name) or exclusions.everywhere(frame.alias.get(name, name)))
    ]
    surplus = [name for name in expert.tensors if not frame.has(name) and exclusions.named(name)]
    surplus += [name for name in _list_own_heads(frame, expert) if exclusions.everywhere(name)]
    unused = [
        name
        for name, info in frame.tensors.items()
        if name not in lacking and not info.computed and not expert.has(name) and is_dispensable(frame, info)
    ]
    spare = [
        name
        for name, info in expert.tensors.items()
        if name not in surplus and not info.computed and not frame.has(name) and is_dispensable(expert, info)
    ]
    notes = _describe(lacking, reshaped, surplus, unused, spare)
    if not notes:
        return expert

    kept, surplus = frozenset([*lacking, *reshaped, *unused]), [*surplus, *spare]
    tensors = {name: info for name, info in expert.tensors.items() if name not in surplus}
    tensors |= {name: frame.tensors[name] for name in kept}
    alias = {name: other for name, other in expert.alias.items() if name not in kept and other not in surplus}
    return ExclusionView(expert, frame, dict(sorted(tensors.items())), alias, notes, kept)


def _list_own_heads(frame: Model, expert: Model) -> list[str]:
    """Heads that `expert` stores apart from its embedding, and `frame` ties to its own without storing them."""
    tied = {*expert.alias, *expert.alias.values()}
    return [name for name in expert.tensors if name in frame.alias and name not in frame.tensors and name not in tied]


def propose_exclusion(
    base: Mapping[str, TensorInfo], *, missing: Collection[str], extra: Collection[str], reshaped: Collection[str]
) -> list[str] | None:
    """Patterns that leave everything in common but a part that one of the two lacks; None where that is no small part.

    `missing` are names of `base` without a counterpart, `extra` names without one in it, `reshaped` common names of
    different shapes, which only heads of classes may have. Where each of the two lacks something, names may have
    changed, and nothing is offered unless what one lacks is a head. The embedding and the head of tokens must be in
    common: the result would speak with the base's.
    """
    apart = [*missing, *extra, *reshaped]
    common = [name for name in base if name not in missing and name not in reshaped]
    is_output = build_matcher(["kind:head"], where="merge.exclude")
    if not apart or LEAST_COMMON * len(common) < len(base) or not all(map(is_output, reshaped)):
        return None
    if not (all(map(is_output, missing)) or all(map(is_output, extra))):
        return None
    if any(any(map(test, apart)) and not any(map(test, common)) for test in (is_embedding, is_head)):
        return None

    patterns = list(dict.fromkeys(_find_pattern(name, common) for name in apart))
    return patterns if len(patterns) <= MOST_PATTERNS else None


def format_patterns(patterns: list[str]) -> str:
    """Patterns as they are written in the YAML file, on one line."""
    return json.dumps(patterns)


def _find_pattern(name: str, common: Collection[str]) -> str:
    """The shortest prefix of `name` up to a dot that no common name begins with, as a glob; else the name itself."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        prefix = "".join(f"{part}." for part in parts[:length])
        if not any(other.startswith(prefix) for other in common):
            return f"{prefix}*"
    return name


def _describe(
    lacking: list[str], reshaped: list[str], surplus: list[str], unused: list[str], spare: list[str]
) -> tuple[str, ...]:
    told = (
        (lacking, "lacks what is excluded, which keeps the base's values"),
        (reshaped, "has other shapes in what is excluded, which keeps the base's values"),
        (surplus, "has more than the base in what is excluded, which is left out"),
        (unused, "lacks what loaders leave out or compute, which keeps the base's values"),
        (spare, "has more than the base in what loaders leave out or compute, which is left out"),
    )
    return tuple(f"{text}: {summarise_names(names)}" for names, text in told if names)
