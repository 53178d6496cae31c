"""Merge methods as rows of one table, and the binding of a recipe's options to a row before any weight is read."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Concatenate, Literal

from pydantic import ConfigDict, ValidationError, create_model

from aftermix.checkpoints.model import TensorInfo
from aftermix.config import MergeConfig, VectorConfig
from aftermix.config.places import Weight
from aftermix.errors import MergeError, Problem, ask_meant, find_meant, join_place, refuse_if_any
from aftermix.merging.rules.compat import COMPAT, COMPAT_METHODS
from aftermix.merging.rules.exclusive import exclusive, refuse_other_turns
from aftermix.merging.rules.inter import consensus, disjoint_mean, weighted_mean, weighted_sum
from aftermix.merging.rules.intra import (
    Pruner,
    TensorKey,
    band,
    keep_all,
    magnitude,
    magnitude_sampled,
    random_rescale,
    saliency,
)
from aftermix.merging.rules.kinds import (
    Elementwise,
    Exclusive,
    InterRule,
    Rule,
    Surveyed,
    Whole,
    list_options,
    pick_options,
)
from aftermix.merging.rules.model_stock import model_stock, survey_interpolation
from aftermix.merging.rules.pcb import pcb, survey_competition
from aftermix.merging.rules.sce import sce
from aftermix.merging.rules.spherical import karcher, nuslerp, slerp
from aftermix.merging.rules.surveys import Combiner, compute_gram
from aftermix.merging.rules.wudi import wudi
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.merging.topk.scores import ScoredEntries

IntraRule = Callable[Concatenate[TensorBlocks, TensorKey, ...], Pruner]
"""Of one tensor of a vector a pruner of its blocks."""


@dataclass(frozen=True)
class MergeMethod:
    """An intra-model rule, an inter-model rule, and where their defaults differ from the rules' own."""

    intra: IntraRule
    inter: InterRule
    defaults: Mapping[str, Any] = field(default_factory=dict)
    operands: Literal["deltas", "models"] = "deltas"
    """`models`: the rules see the models themselves, and the result replaces the base instead of moving it."""
    idle: Rule | None = None
    """Its options are taken and checked, and decide nothing: one file serves this method and those with that rule."""

    @property
    def functions(self) -> tuple[Rule, ...]:
        """Those that take the options of the method."""
        idle = (self.idle,) if self.idle else ()
        return (self.intra, *self.inter.combining, *self.inter.preparing, *idle)


METHODS: dict[str, MergeMethod] = {
    "linear": MergeMethod(keep_all, Elementwise(weighted_mean, averages=True), operands="models"),
    "task_arithmetic": MergeMethod(keep_all, Elementwise(weighted_sum)),
    "ties": MergeMethod(magnitude, Elementwise(disjoint_mean)),
    "dare_linear": MergeMethod(random_rescale, Elementwise(weighted_sum)),
    "dare_ties": MergeMethod(random_rescale, Elementwise(disjoint_mean), {"normalize": False}),
    "della": MergeMethod(magnitude_sampled, Elementwise(disjoint_mean)),
    "della_linear": MergeMethod(magnitude_sampled, Elementwise(weighted_sum)),
    "breadcrumbs": MergeMethod(band, Elementwise(weighted_sum)),
    "breadcrumbs_ties": MergeMethod(band, Elementwise(disjoint_mean)),
    "tall_mask": MergeMethod(keep_all, Elementwise(consensus)),
    "ties_im": MergeMethod(magnitude, Exclusive(exclusive)),
    "ties_obm": MergeMethod(saliency, Elementwise(disjoint_mean), idle=exclusive),
    "obim": MergeMethod(saliency, Exclusive(exclusive)),
    "slerp": MergeMethod(keep_all, Surveyed(compute_gram, slerp, averages=True, takes_two=True), operands="models"),
    "karcher": MergeMethod(keep_all, Surveyed(compute_gram, karcher, averages=True), operands="models"),
    "model_stock": MergeMethod(keep_all, Surveyed(survey_interpolation, model_stock, averages=True)),
    "nuslerp": MergeMethod(keep_all, Surveyed(compute_gram, nuslerp, averages=True), operands="models"),
    "nuslerp_deltas": MergeMethod(keep_all, Surveyed(compute_gram, nuslerp, averages=True)),
    "sce": MergeMethod(keep_all, Whole(sce, averages=True)),
    "pcb": MergeMethod(keep_all, Surveyed(survey_competition, pcb)),
    "wudi": MergeMethod(keep_all, Whole(wudi)),
}

INTRA: dict[str, IntraRule] = {
    "all": keep_all,
    "magnitude": magnitude,
    "random": random_rescale,
    "magnitude_sampled": magnitude_sampled,
    "band": band,
    "saliency": saliency,
}
INTER: dict[str, InterRule] = {
    "sum": Elementwise(weighted_sum),
    "mean": Elementwise(weighted_mean, averages=True),
    "disjoint_mean": Elementwise(disjoint_mean),
    "consensus": Elementwise(consensus),
    "exclusive": Exclusive(exclusive),
}

UNSAID: Mapping[str, Any] = {"start": None, "count_base": False}
"""Options that are not among those settled where they have these values: records of older versions lack them."""
RATIO_TOLERANCE = 1e-9
DEFAULT_METHOD = "task_arithmetic"


@dataclass(frozen=True)
class BoundMethod:
    """A method with every option settled."""

    name: str
    row: MergeMethod
    options: dict[str, Any]
    by_vector: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of the intra rule in which a vector differs from the others."""

    @property
    def operands(self) -> Literal["deltas", "models"]:
        """Operands of the rules: differences from the base, or the models themselves."""
        return self.row.operands

    @property
    def rules(self) -> tuple[Rule, Rule]:
        """The functions of the intra rule and of the inter rule, as in the tables."""
        return self.row.intra, self.row.inter.rule

    @property
    def is_exclusive(self) -> bool:
        """True where all vectors decide together what each of them keeps."""
        return isinstance(self.row.inter, Exclusive)

    @property
    def averages(self) -> bool:
        """True where the weights are divided by their sum."""
        return self.row.inter.averages

    @property
    def divides_by_weights(self) -> bool:
        """True where a merge is the same for all weights times one number: they are divided by their sum."""
        return self.averages or (self.rules[1] is disjoint_mean and self.options.get("normalize") is True)

    @property
    def surveys_tensors(self) -> bool:
        """True where the inter rule looks at a whole tensor of all vectors before it combines."""
        return self.row.inter.surveys_tensors

    @property
    def needs_whole_tensors(self) -> bool:
        """True where the inter rule combines tensors of all vectors as a whole."""
        return isinstance(self.row.inter, Whole)

    def survey_tensors(self, tensors: Sequence[TensorBlocks], info: TensorInfo) -> Any:
        """Look for what the inter rule has to know of one tensor of the vectors in use, whatever their weights."""
        return self.row.inter.survey_tensors(tensors, info, self.options)

    def build_combiner(self, facts: Any, weights: Sequence[float], *, vectors: Sequence[str] = ()) -> Combiner:
        """Combiner of blocks of the vectors in use, `facts` being those of the survey; `vectors` are their names."""
        by_vector = {option: value for option, value in self.options.items() if isinstance(value, dict)}
        own = {option: {vector: value[vector] for vector in vectors} for option, value in by_vector.items()}
        return self.row.inter.build_combiner(facts, weights, self.options | own)

    @property
    def needs_statistics(self) -> bool:
        """True where entries are ranked by what calibration has measured."""
        return self.rules[0] is saliency

    def allot_entries(self, entries: Mapping[str, ScoredEntries], shift: int) -> dict[str, Pruner]:
        """Pruner of each vector under an exclusive rule; :func:`exclusive` says what `shift` is."""
        if not isinstance(self.row.inter, Exclusive):
            raise TypeError(f"{self.name} does not share entries out")
        return self.row.inter.allot_entries(entries, self.compute_ratios(list(entries)), shift, self.options)

    def compute_ratios(self, vectors: Sequence[str]) -> dict[str, float]:
        """Share of a tensor that each of `vectors` gets under an exclusive rule.

        Raises :class:`MergeError` when the shares exceed 1 together.
        """
        sharers = len(vectors) + (1 if self.options.get("count_base") else 0)
        ratios = {v: self.collect_options(v)["density"] or 1 / sharers for v in vectors}
        if sum(ratios.values()) > 1 + RATIO_TOLERANCE:
            shown = ", ".join(f"{name} {ratio:g}" for name, ratio in ratios.items())
            remedy = "Lower `ratio` of the vectors, or `density`, so that they sum to at most 1."
            raise MergeError("vectors", f"ratios sum to {sum(ratios.values()):g} ({shown})", remedy)
        return ratios

    def largest_possible(self, weights: Mapping[str, float], largest: Mapping[str, float]) -> float:
        """Bound that no entry of a combined block exceeds, `largest` being the largest that each vector keeps.

        Inf where the inter rule has none.
        """
        if not self.row.inter.is_bounded(self.options):
            return math.inf
        total = sum(abs(weight) * largest[vector] for vector, weight in weights.items())
        return max(total, *largest.values())  # a mean over those that agree is no larger than the largest of them

    def refuse_other_count(self, vectors: Sequence[str]) -> None:
        """Raise :class:`MergeError` when the method is not one for so many vectors."""
        if self.row.inter.takes_two and len(vectors) != 2:
            found = f"{self.name} is between two models, there are {len(vectors)} ({', '.join(vectors)})"
            raise MergeError("vectors", found, "Keep two, or use karcher, which takes any number.")

    def refuse_other_order(self, vectors: Sequence[str]) -> None:
        """Raise :class:`MergeError` when a named order is not one of all `vectors`, or its start none of them."""
        refuse_other_turns(vectors, self.options.get("order", "rotation"), self.options.get("start"))

    def refuse_other_vectors(self, vectors: Sequence[str]) -> None:
        """Raise :class:`MergeError` when an option that is set by vector is not set for each of `vectors`."""
        for option, value in self.options.items():
            if isinstance(value, dict) and sorted(value) != sorted(vectors):
                found = f"is for {', '.join(value) or 'no vector'}, the vectors are {', '.join(vectors)}"
                raise MergeError(f"merge.{option}", found, "Give one number for all vectors, or one for each.")

    def bind_intra(
        self, vector: str, read_density: Callable[[Weight], float] | None = None
    ) -> Callable[[TensorBlocks, TensorKey], Pruner]:
        """The intra rule with the options of one vector; `read_density` gives a density as it holds for a tensor."""
        options = self.collect_options(vector)
        if "density" in options and read_density is not None:
            options["density"] = read_density(options["density"])
        return partial(self.row.intra, **pick_options(self.row.intra, options))

    def collect_options(self, vector: str) -> dict[str, Any]:
        """Every option as it holds for one vector."""
        return self.options | dict(self.by_vector.get(vector, {}))

    @property
    def selects_over_model(self) -> bool:
        """True where a tensor's share of the kept entries depends on all tensors."""
        return self.rules[0] is magnitude and self.options.get("scope") == "model"


def bind(config: MergeConfig, *, vectors: Mapping[str, VectorConfig] | None = None) -> BoundMethod:
    """Settle the method and options of `config`, and what `vectors` have of their own.

    Raises :class:`MergeError` or :class:`ManyProblemsError` for an unknown method, rule or option, and for a value
    outside its bounds, naming what the method takes.
    """
    name, method, options = _choose_method(config)
    compat = COMPAT[config.compat] if config.compat else {}
    if config.compat and not {method.intra, method.inter.rule} <= compat.keys():
        raise MergeError("merge.compat", f"{name} is not as {config.compat} has it", "Remove `compat`.")
    if config.compat and name in COMPAT_METHODS[config.compat]:
        method = replace(method, defaults={**method.defaults, **COMPAT_METHODS[config.compat][name]})
    bound = _bind_options(name, method, options, compat)
    return replace(bound, by_vector=_collect_by_vector(bound, vectors or {}))


def _choose_method(config: MergeConfig) -> tuple[str, MergeMethod, dict[str, Any]]:
    """Name, rules and given options of what `config` asks for."""
    if config.intra is not None or config.inter is not None:
        return _read_pair(config)
    name = config.method or DEFAULT_METHOD
    if name not in METHODS:
        raise MergeError("merge.method", f"there is no method '{name}'", _suggest_name(name, METHODS))
    return name, METHODS[name], config.options


def _read_pair(config: MergeConfig) -> tuple[str, MergeMethod, dict[str, Any]]:
    """A pair of rules without a name: `intra: {rule: magnitude, density: 0.3}`, `inter: sum`."""
    if config.method is not None or config.options:
        given = config.method or next(iter(config.options))
        remedy = "Name a method with its options, or a pair of rules that hold theirs."
        raise MergeError("merge", f"'{given}' stands beside a pair of rules", remedy)

    intra, intra_options = _read_rule("intra", config.intra or "all", INTRA)
    inter, inter_options = _read_rule("inter", config.inter or "sum", INTER)
    method = MergeMethod(INTRA[intra], INTER[inter])
    _refuse_unknown(intra_options, list_options(method.intra), intra)
    _refuse_unknown(inter_options, list_options(method.inter.rule), inter)
    return f"{intra}+{inter}", method, intra_options | inter_options


def _collect_by_vector(bound: BoundMethod, vectors: Mapping[str, VectorConfig]) -> dict[str, dict[str, Any]]:
    """An exclusive rule shares a tensor out by `ratio`; the others keep a `density` of it."""
    if bound.rules[0] is saliency and not bound.is_exclusive:
        return _read_densities(vectors)
    key, other = ("ratio", "density") if bound.is_exclusive else ("density", "ratio")
    own = {name: getattr(vector, key) for name, vector in vectors.items() if getattr(vector, key) is not None}

    # What decides nothing is refused rather than passed over.
    idle = [(name, key) for name in own if "density" not in list_options(bound.row.intra)]
    idle += [(name, other) for name, vector in vectors.items() if getattr(vector, other) is not None]
    refuse_if_any(
        [
            Problem(
                join_place("vectors", name, option),
                f"{bound.name} has no use for it",
                "Remove it, or choose another method.",
            )
            for name, option in idle
        ]
    )
    return {name: {"density": share} for name, share in own.items()}


def _read_densities(vectors: Mapping[str, VectorConfig]) -> dict[str, dict[str, Any]]:
    """OBIM's n_k is a ratio where vectors share a tensor out, and a density where they do not."""
    remedy = "Give one of them."
    refuse_if_any(
        [
            Problem(join_place("vectors", name, "ratio"), "stands beside `density`, its other name", remedy)
            for name, vector in vectors.items()
            if vector.ratio is not None and vector.density is not None
        ]
    )
    shares = {name: vector.ratio if vector.density is None else vector.density for name, vector in vectors.items()}
    return {name: {"density": share} for name, share in shares.items() if share is not None}


def _read_rule(key: str, value: str | dict[str, Any], table: Collection[str]) -> tuple[str, dict[str, Any]]:
    options = {"rule": value} if isinstance(value, str) else dict(value)
    name = str(options.pop("rule", ""))
    if name not in table:
        raise MergeError(f"merge.{key}", f"there is no rule '{name}'", _suggest_name(name, table))
    return name, options


def _bind_options(
    name: str, method: MergeMethod, options: dict[str, Any], compat: Mapping[Rule, Mapping[str, Any]]
) -> BoundMethod:
    takes = list_options(*method.functions)
    _refuse_unknown(options, takes, name)
    if isinstance(method.inter, Exclusive):
        _refuse_unranked(name, method, options)

    # A default of the tool in `compat` goes before the method's, and that before the rule's own.
    equal_shares: dict[str, Any] = {"density": None} if isinstance(method.inter, Exclusive) else {}
    own = [compat.get(rule, {}) for rule in (method.intra, method.inter.rule)]
    defaults = {**equal_shares, **method.defaults, **own[0], **own[1]}
    fields = {key: (kind, defaults.get(key, default)) for key, (kind, default) in takes.items()}
    schema = create_model("Options", __config__=ConfigDict(strict=False, extra="forbid"), **typing.cast(Any, fields))
    try:
        settled = schema(**options).model_dump()
        settled = {key: value for key, value in settled.items() if key not in UNSAID or value != UNSAID[key]}
    except ValidationError as error:
        refuse_if_any([_describe_bad_value(name, detail) for detail in error.errors()])
        raise
    return BoundMethod(name, method, settled)


def _refuse_unranked(name: str, method: MergeMethod, options: Mapping[str, Any]) -> None:
    if method.intra not in (magnitude, saliency):
        remedy = "With `exclusive`, use `magnitude` or `saliency`."
        raise MergeError("merge.intra", f"{name} cannot rank entries", remedy)
    if options.get("scope", "tensor") != "tensor":
        raise MergeError("merge.scope", f"{name} shares out every tensor by itself", "Remove it.")


def _refuse_unknown(options: Mapping[str, Any], known: Collection[str], owner: str) -> None:
    takes = ", ".join(known) or "none"
    refuse_if_any(
        [
            Problem(
                f"merge.{option}",
                f"{owner} has no option '{option}'",
                ask_meant(f"It takes: {takes}.", option, (*known, *MergeConfig.model_fields)),
            )
            for option in options
            if option not in known
        ]
    )


def _describe_bad_value(owner: str, detail: Any) -> Problem:
    place = join_place("", *detail["loc"])
    return Problem(f"merge.{place}", f"{detail['msg']}, found {detail.get('input')!r}", f"It is an option of {owner}.")


def _suggest_name(name: str, table: Collection[str]) -> str:
    meant = find_meant(name, table)
    hint = f"Did you mean '{meant}'? " if meant else ""
    return f"{hint}There are: {', '.join(table)}."
