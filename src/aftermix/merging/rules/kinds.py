"""Kinds of inter rules: elementwise, exclusive, surveyed, or of whole tensors.

A row of the table of methods holds its rule as one of these. A kind says which functions take the options and what a
merge may expect of them, looks at a tensor as far as its rule has to, and gives the combiner of the tensor's blocks.
"""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Concatenate, Generic, TypeVar

import torch

from aftermix.checkpoints.model import TensorInfo
from aftermix.merging.rules.inter import weighted_sum
from aftermix.merging.rules.intra import Pruner
from aftermix.merging.rules.surveys import Combiner, WholeTensors, cut_slices, read_whole_tensors
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.merging.topk.scores import ScoredEntries

Facts = TypeVar("Facts")
Options = Mapping[str, Any]
Rule = Callable[..., object]
"""Any function whose keyword-only arguments are options of a method."""
BlockRule = Callable[Concatenate[Sequence[torch.Tensor], Sequence[float], ...], torch.Tensor]
"""Of kept blocks and weights one block."""
SharingRule = Callable[Concatenate[Mapping[str, ScoredEntries], Mapping[str, float], int, ...], dict[str, Pruner]]
"""Of the scores and ratios of all vectors, and a shift, a pruner for each vector."""
Survey = Callable[Concatenate[Sequence[TensorBlocks], TensorInfo, ...], Facts]
"""Of one tensor of the vectors in use, facts that do not depend on the weights."""
FactsRule = Callable[Concatenate[Facts, Sequence[float], ...], Combiner]
"""Of facts and weights a combiner."""
WholeRule = Callable[Concatenate[WholeTensors, Sequence[float], ...], torch.Tensor]
"""Of whole tensors and weights one tensor."""


class InterRule(ABC):
    """An inter-model rule, and what a merge has to know of it. `options` are all those of the method, settled."""

    rule: Rule
    averages: bool = False
    """True where the rule divides the weights by their sum."""
    takes_two: bool = False
    """True where the rule is between two vectors, no fewer and no more."""
    surveys_tensors: ClassVar[bool] = False
    """True where the rule looks at a whole tensor of all vectors before it combines."""

    @property
    def preparing(self) -> tuple[Rule, ...]:
        """The functions that know nothing of the weights: a search runs them once."""
        return ()

    @property
    def combining(self) -> tuple[Rule, ...]:
        """The functions that are run for every choice of weights."""
        return (self.rule,)

    def is_bounded(self, options: Options) -> bool:
        """True where no entry of a combined block exceeds the weighted sum of the largest that the vectors keep.

        Not so for rules that divide by a sum of signed weights, which may be as small as it likes, and for those with a
        survey.
        """
        return not (self.averages or self.surveys_tensors or options.get("divisor") == "signed")

    def survey_tensors(  # noqa: B027 - most rules have nothing to look for
        self, tensors: Sequence[TensorBlocks], info: TensorInfo, options: Options
    ) -> Any:
        """Look for what the rule has to know of one tensor of the vectors in use: here nothing."""

    @abstractmethod
    def build_combiner(self, facts: Any, weights: Sequence[float], options: Options) -> Combiner:
        """Combiner of blocks of the vectors in use, `facts` being those of the survey."""


@dataclass(frozen=True)
class Elementwise(InterRule):
    """Rule that combines blocks entry by entry: every entry by itself."""

    rule: BlockRule
    averages: bool = False

    def build_combiner(self, facts: None, weights: Sequence[float], options: Options) -> Combiner:  # noqa: ARG002
        """The rule with these weights."""
        own = pick_options(self.rule, options)
        return lambda tensors, _: self.rule(tensors, weights, **own)


@dataclass(frozen=True)
class Exclusive(InterRule):
    """Rule by which all vectors decide together what each of them keeps; what they keep is added up."""

    rule: SharingRule

    @property
    def preparing(self) -> tuple[Rule, ...]:
        """The rule itself: ratios are no weights."""
        return (self.rule,)

    @property
    def combining(self) -> tuple[Rule, ...]:
        """No function with options: a sum has none."""
        return ()

    def allot_entries(
        self, entries: Mapping[str, ScoredEntries], ratios: Mapping[str, float], shift: int, options: Options
    ) -> dict[str, Pruner]:
        """Pruner of each vector; :func:`aftermix.merging.rules.exclusive.exclusive` says what `shift` is."""
        return self.rule(entries, ratios, shift, **pick_options(self.rule, options))

    def build_combiner(self, facts: None, weights: Sequence[float], options: Options) -> Combiner:  # noqa: ARG002
        """The sum of what the vectors keep, weighted."""
        return lambda tensors, _: weighted_sum(tensors, weights)


@dataclass(frozen=True)
class Surveyed(InterRule, Generic[Facts]):
    """Rule that follows from facts about a whole tensor of all vectors, found by its survey; it keeps all."""

    survey: Survey[Facts]
    rule: FactsRule[Facts]
    averages: bool = False
    takes_two: bool = False
    surveys_tensors: ClassVar[bool] = True

    @property
    def preparing(self) -> tuple[Rule, ...]:
        """The survey."""
        return (self.survey,)

    def survey_tensors(self, tensors: Sequence[TensorBlocks], info: TensorInfo, options: Options) -> Facts:
        """Facts that the survey finds."""
        return self.survey(tensors, info, **pick_options(self.survey, options))

    def build_combiner(self, facts: Facts, weights: Sequence[float], options: Options) -> Combiner:
        """The combiner that the rule makes of facts and weights."""
        return self.rule(facts, weights, **pick_options(self.rule, options))


@dataclass(frozen=True)
class Whole(InterRule):
    """Rule that needs all entries of a tensor at once, and gives the combined tensor; it keeps all."""

    rule: WholeRule
    averages: bool = False
    surveys_tensors: ClassVar[bool] = True

    def survey_tensors(self, tensors: Sequence[TensorBlocks], info: TensorInfo, options: Options) -> WholeTensors:  # noqa: ARG002
        """The tensor of every vector."""
        return read_whole_tensors(tensors, info)

    def build_combiner(self, facts: WholeTensors, weights: Sequence[float], options: Options) -> Combiner:
        """Cuts of the combined tensor, which is made here."""
        return cut_slices(self.rule(facts, weights, **pick_options(self.rule, options)))


@cache
def list_options(*rules: Rule) -> Mapping[str, tuple[Any, Any]]:
    """Annotation and default of each option that `rules` take: their keyword-only arguments."""
    options: dict[str, tuple[Any, Any]] = {}
    for rule in rules:
        hints = typing.get_type_hints(rule, include_extras=True)
        signature = inspect.signature(rule).parameters.values()
        options |= {p.name: (hints[p.name], p.default) for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return options


def pick_options(rule: Rule, options: Options) -> dict[str, Any]:
    """Those of `options` that `rule` takes; what is left out has the rule's own default."""
    return {name: options[name] for name in list_options(rule) if name in options}
