"""Merge methods as rows of one table, and the binding of a recipe's options to a row before any weight is read."""

from __future__ import annotations

import difflib
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, create_model

from aftermix.checkpoints.model import TensorInfo
from aftermix.config import MergeConfig, VectorConfig
from aftermix.errors import MergeError, Problem, refuse_if_any
from aftermix.merging.rules.exclusive import exclusive
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
from aftermix.merging.rules.model_stock import model_stock, survey_interpolation
from aftermix.merging.rules.pcb import pcb, survey_competition
from aftermix.merging.rules.spherical import karcher, slerp
from aftermix.merging.rules.surveys import Combiner, Survey, compute_gram, cut_slices, read_whole_tensors
from aftermix.merging.rules.wudi import wudi
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.merging.topk.scores import ScoredEntries

IntraRule = Callable[..., Pruner]
InterRule = Callable[..., Any]
"""Of kept blocks and weights one block; an exclusive rule, of scores and ratios a pruner for each vector; a rule with a
survey, of its facts and weights a combiner."""
Rule = IntraRule | InterRule


@dataclass(frozen=True)
class MergeMethod:
    """An intra-model rule, an inter-model rule, and where their defaults differ from the rules' own."""

    intra: IntraRule
    inter: InterRule
    defaults: Mapping[str, Any] = field(default_factory=dict)
    operands: Literal["deltas", "models"] = "deltas"
    """`models`: the rules see the models themselves, and the result replaces the base instead of moving it."""
    survey: Survey | None = None
    """Look of the inter rule at a whole tensor, see `merging/rules/surveys.py`; such a method keeps all."""
    idle: Rule | None = None
    """Its options are taken and checked, and decide nothing: one file serves this method and those with that rule."""

    @property
    def rules(self) -> list[Rule]:
        """The intra rule, the inter rule, and its survey if it has one."""
        return [self.intra, self.inter, *([self.survey] if self.survey else [])]


METHODS: dict[str, MergeMethod] = {
    "linear": MergeMethod(keep_all, weighted_mean, operands="models"),
    "task_arithmetic": MergeMethod(keep_all, weighted_sum),
    "ties": MergeMethod(magnitude, disjoint_mean),
    "dare_linear": MergeMethod(random_rescale, weighted_sum),
    "dare_ties": MergeMethod(random_rescale, disjoint_mean, {"normalize": False}),
    "della": MergeMethod(magnitude_sampled, disjoint_mean),
    "della_linear": MergeMethod(magnitude_sampled, weighted_sum),
    "breadcrumbs": MergeMethod(band, weighted_sum),
    "breadcrumbs_ties": MergeMethod(band, disjoint_mean),
    "tall_mask": MergeMethod(keep_all, consensus),
    "ties_im": MergeMethod(magnitude, exclusive),
    "ties_obm": MergeMethod(saliency, disjoint_mean, idle=exclusive),
    "obim": MergeMethod(saliency, exclusive),
    "slerp": MergeMethod(keep_all, slerp, operands="models", survey=compute_gram),
    "karcher": MergeMethod(keep_all, karcher, operands="models", survey=compute_gram),
    "model_stock": MergeMethod(keep_all, model_stock, survey=survey_interpolation),
    "pcb": MergeMethod(keep_all, pcb, survey=survey_competition),
    "wudi": MergeMethod(keep_all, wudi, survey=read_whole_tensors),
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
    "sum": weighted_sum,
    "mean": weighted_mean,
    "disjoint_mean": disjoint_mean,
    "consensus": consensus,
    "exclusive": exclusive,
}

COMPAT: dict[str, dict[Rule, dict[str, Any]]] = {
    "mergekit": {
        keep_all: {},
        magnitude: {"density": 1.0},
        random_rescale: {"rescale": "l1"},
        weighted_sum: {},
        weighted_mean: {},
        disjoint_mean: {"divisor": "signed"},
        slerp: {},
        karcher: {},
        model_stock: {},
    },
}
"""By tool, the rules that are alike and its defaults for them (mergekit 0.1.5; docs/methods.md has what is left)."""

AVERAGING: tuple[Rule, ...] = (weighted_mean, slerp, karcher, model_stock)
"""Rules that divide the weights by their sum."""
RATIO_TOLERANCE = 1e-9
DEFAULT_METHOD = "task_arithmetic"


@dataclass(frozen=True)
class BoundMethod:
    """A method with every option settled."""

    name: str
    intra: Callable[[TensorBlocks, TensorKey], Pruner]
    inter: Callable[..., Any]
    operands: Literal["deltas", "models"]
    options: dict[str, Any]
    by_vector: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of the intra rule in which a vector differs from the others."""
    survey_rule: Callable[[Sequence[TensorBlocks], TensorInfo], Any] | None = None
    """The survey of the inter rule, where it has one."""

    @property
    def is_exclusive(self) -> bool:
        """True where all vectors decide together what each of them keeps."""
        return self.rules[1] is exclusive

    def survey_tensors(self, tensors: Sequence[TensorBlocks], info: TensorInfo) -> Any:
        """Look for what the inter rule has to know of one tensor of the vectors in use, whatever their weights."""
        return self.survey_rule(tensors, info) if self.survey_rule else None

    @property
    def needs_whole_tensors(self) -> bool:
        """True where the inter rule combines tensors of all vectors as a whole."""
        return self.survey_rule is not None and _unwrap_rule(self.survey_rule) is read_whole_tensors

    def build_combiner(self, facts: Any, weights: Sequence[float], *, vectors: Sequence[str] = ()) -> Combiner:
        """Combiner of blocks of the vectors in use, `facts` being those of the survey; `vectors` are their names."""
        if self.needs_whole_tensors:
            return cut_slices(self.inter(facts, weights))
        if self.survey_rule:
            combiner: Combiner = self.inter(facts, weights)
            return combiner
        inter = weighted_sum if self.is_exclusive else self._bind_inter(vectors)
        return lambda tensors, _: inter(tensors, weights)

    @property
    def needs_statistics(self) -> bool:
        """True where entries are ranked by what calibration has measured."""
        return self.rules[0] is saliency

    def allot_entries(self, entries: Mapping[str, ScoredEntries], shift: int) -> dict[str, Pruner]:
        """Pruner of each vector under an exclusive rule; :func:`exclusive` says what `shift` is."""
        pruners: dict[str, Pruner] = self.inter(entries, self.compute_ratios(list(entries)), shift)
        return pruners

    def compute_ratios(self, vectors: Sequence[str]) -> dict[str, float]:
        """Share of a tensor that each of `vectors` gets under an exclusive rule.

        Raises :class:`MergeError` when the shares exceed 1 together.
        """
        ratios = {v: self.collect_options(v)["density"] or 1 / len(vectors) for v in vectors}
        if sum(ratios.values()) > 1 + RATIO_TOLERANCE:
            shown = ", ".join(f"{name} {ratio:g}" for name, ratio in ratios.items())
            remedy = "Lower `ratio` of the vectors, or `density`, so that they sum to at most 1."
            raise MergeError("vectors", f"ratios sum to {sum(ratios.values()):g} ({shown})", remedy)
        return ratios

    def largest_possible(self, weights: Mapping[str, float], largest: Mapping[str, float]) -> float:
        """Bound that no entry of a combined block exceeds, `largest` being the largest that each vector keeps.

        Inf for rules that divide by a sum of signed weights, which may be as small as it likes, and for those with a
        survey.
        """
        if self.averages or self.survey_rule or self.options.get("divisor") == "signed":
            return math.inf
        total = sum(abs(weight) * largest[vector] for vector, weight in weights.items())
        return max(total, *largest.values())  # a mean over those that agree is no larger than the largest of them

    def refuse_other_count(self, vectors: Sequence[str]) -> None:
        """Raise :class:`MergeError` when the method is not one for so many vectors."""
        if self.rules[1] is slerp and len(vectors) != 2:
            found = f"slerp is between two models, there are {len(vectors)} ({', '.join(vectors)})"
            raise MergeError("vectors", found, "Keep two, or use karcher, which takes any number.")

    def refuse_other_order(self, vectors: Sequence[str]) -> None:
        """Raise :class:`MergeError` when a named order is not one of all `vectors`."""
        order = self.options.get("order", "rotation")
        if order == "rotation" or sorted(order) == sorted(vectors):
            return
        unknown = [name for name in order if name not in vectors]
        found = f"there is no vector '{unknown[0]}'" if unknown else f"names {', '.join(order)}, not every vector"
        raise MergeError("merge.order", f"{found} ({', '.join(vectors)})", "Name each vector once, or `rotation`.")

    def refuse_other_vectors(self, vectors: Sequence[str]) -> None:
        """Raise :class:`MergeError` when an option that is set by vector is not set for each of `vectors`."""
        for option, value in self.options.items():
            if isinstance(value, dict) and sorted(value) != sorted(vectors):
                found = f"is for {', '.join(value) or 'no vector'}, the vectors are {', '.join(vectors)}"
                raise MergeError(f"merge.{option}", found, "Give one number for all vectors, or one for each.")

    def _bind_inter(self, vectors: Sequence[str]) -> Callable[..., Any]:
        """The inter rule, with what is set by vector in the order of `vectors`."""
        by_vector = {option: value for option, value in self.options.items() if isinstance(value, dict)}
        own = {option: {vector: value[vector] for vector in vectors} for option, value in by_vector.items()}
        return partial(self.inter, **own) if own else self.inter

    def bind_intra(self, vector: str) -> Callable[[TensorBlocks, TensorKey], Pruner]:
        """The intra rule with the options of one vector."""
        return partial(self.intra, **self.by_vector.get(vector, {}))

    def collect_options(self, vector: str) -> dict[str, Any]:
        """Every option as it holds for one vector."""
        return self.options | dict(self.by_vector.get(vector, {}))

    @property
    def rules(self) -> tuple[Rule, Rule]:
        """The intra rule and the inter rule, as in the tables."""
        return _unwrap_rule(self.intra), _unwrap_rule(self.inter)

    @property
    def selects_over_model(self) -> bool:
        """True where a tensor's share of the kept entries depends on all tensors."""
        return self.rules[0] is magnitude and self.options.get("scope") == "model"

    @property
    def averages(self) -> bool:
        """True where the weights are divided by their sum."""
        return self.rules[1] in AVERAGING


def bind(config: MergeConfig, *, vectors: Mapping[str, VectorConfig] | None = None) -> BoundMethod:
    """Settle the method and options of `config`, and what `vectors` have of their own.

    Raises :class:`MergeError` or :class:`ManyProblemsError` for an unknown method, rule or option, and for a value
    outside its bounds, naming what the method takes.
    """
    name, method, options = _choose_method(config)
    compat = COMPAT[config.compat] if config.compat else {}
    if config.compat and not {method.intra, method.inter} <= compat.keys():
        raise MergeError("merge.compat", f"{name} is not as {config.compat} has it", "Remove `compat`.")
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
    for table, rule, options in ((INTRA, intra, intra_options), (INTER, inter, inter_options)):
        _refuse_unknown(options, _list_options(table[rule]), rule)
    return f"{intra}+{inter}", MergeMethod(INTRA[intra], INTER[inter]), intra_options | inter_options


def _collect_by_vector(bound: BoundMethod, vectors: Mapping[str, VectorConfig]) -> dict[str, dict[str, Any]]:
    """An exclusive rule shares a tensor out by `ratio`; the others keep a `density` of it."""
    if bound.rules[0] is saliency and not bound.is_exclusive:
        return _read_densities(vectors)
    key, other = ("ratio", "density") if bound.is_exclusive else ("density", "ratio")
    own = {name: getattr(vector, key) for name, vector in vectors.items() if getattr(vector, key) is not None}

    # What decides nothing is refused rather than passed over.
    idle = [(name, key) for name in own if "density" not in _list_options(bound.rules[0])]
    idle += [(name, other) for name, vector in vectors.items() if getattr(vector, other) is not None]
    refuse_if_any(
        [
            Problem(
                f"vectors.{name}.{option}", f"{bound.name} has no use for it", "Remove it, or choose another method."
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
            Problem(f"vectors.{name}.ratio", "stands beside `density`, its other name", remedy)
            for name, vector in vectors.items()
            if vector.ratio is not None and vector.density is not None
        ]
    )
    shares = {name: vector.ratio if vector.density is None else vector.density for name, vector in vectors.items()}
    return {name: {"density": share} for name, share in shares.items() if share is not None}


def _read_rule(key: str, value: str | dict[str, Any], table: Mapping[str, Rule]) -> tuple[str, dict[str, Any]]:
    options = {"rule": value} if isinstance(value, str) else dict(value)
    name = str(options.pop("rule", ""))
    if name not in table:
        raise MergeError(f"merge.{key}", f"there is no rule '{name}'", _suggest_name(name, table))
    return name, options


def _bind_options(
    name: str, method: MergeMethod, options: dict[str, Any], compat: Mapping[Rule, Mapping[str, Any]]
) -> BoundMethod:
    takes = [_list_options(rule) for rule in (*method.rules, *([method.idle] if method.idle else []))]
    _refuse_unknown(options, {key: None for part in takes for key in part}, name)
    if method.inter is exclusive:
        _refuse_unranked(name, method, options)

    # A default of the tool in `compat` goes before the method's, and that before the rule's own.
    equal_shares: dict[str, Any] = {"density": None} if method.inter is exclusive else {}
    defaults = {**equal_shares, **method.defaults, **compat.get(method.intra, {}), **compat.get(method.inter, {})}
    fields = {key: (kind, defaults.get(key, default)) for part in takes for key, (kind, default) in part.items()}
    schema = create_model("Options", __config__=ConfigDict(strict=False, extra="forbid"), **typing.cast(Any, fields))
    try:
        settled = schema(**options).model_dump()
    except ValidationError as error:
        refuse_if_any([_describe_bad_value(name, detail) for detail in error.errors()])
        raise

    parts = [partial(rule, **{key: settled[key] for key in _list_options(rule)}) for rule in method.rules]
    return BoundMethod(name, parts[0], parts[1], method.operands, settled, survey_rule=parts[2] if parts[2:] else None)


def _refuse_unranked(name: str, method: MergeMethod, options: Mapping[str, Any]) -> None:
    if method.intra not in (magnitude, saliency):
        remedy = "With `exclusive`, use `magnitude` or `saliency`."
        raise MergeError("merge.intra", f"{name} cannot rank entries", remedy)
    if options.get("scope", "tensor") != "tensor":
        raise MergeError("merge.scope", f"{name} shares out every tensor by itself", "Remove it.")


def _list_options(rule: Rule) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of each option of a rule: its keyword-only arguments."""
    hints = typing.get_type_hints(rule, include_extras=True)
    signature = inspect.signature(rule).parameters.values()
    return {p.name: (hints[p.name], p.default) for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _refuse_unknown(options: Mapping[str, Any], known: Mapping[str, Any], owner: str) -> None:
    takes = ", ".join(known) or "none"
    refuse_if_any(
        [
            Problem(f"merge.{option}", f"{owner} has no option '{option}'", f"It takes: {takes}.")
            for option in options
            if option not in known
        ]
    )


def _describe_bad_value(owner: str, detail: Any) -> Problem:
    place = ".".join(str(part) for part in detail["loc"])
    return Problem(f"merge.{place}", f"{detail['msg']}, found {detail.get('input')!r}", f"It is an option of {owner}.")


def _suggest_name(name: str, table: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, table, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}There are: {', '.join(table)}."


def _unwrap_rule(rule: Any) -> Any:
    return rule.func if isinstance(rule, partial) else rule
