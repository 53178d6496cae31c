"""Plan of an export: the domains with their data and shares, and what each really gives, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aftermix.errors import Problem, join_place, printable, refuse_if_any
from aftermix.mixture.exports.domain_data import DATES, IGNORED, TOOLS, DomainData
from aftermix.mixture.exports.epoch_caps import DomainAllotment

Files = Mapping[str, str]
"""Text by file name."""
KINDS = {
    "json": "JSON lines",
    "parquet": "parquet",
    "saved": "a saved dataset",
    "text": "plain text",
    "several": "data of several kinds",
}


@dataclass(frozen=True)
class DomainFiles:
    """Files of one domain, and the way in which they are read."""

    name: str
    parts: tuple[str, ...]
    """Absolute paths of its files or saved datasets."""
    kind: str
    """Of all parts, one of `KINDS`."""
    format: str
    """`text`, `chat` or `completion`."""
    text_field: str
    ignored: tuple[str, ...] = field(default=(), kw_only=True)
    """Columns of a record and keys of its messages that were not counted."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a trainer needs of a record."""
        return {"text": (self.text_field,), "chat": ("messages",), "completion": ("prompt", "completion")}[self.format]


@dataclass(frozen=True)
class ExportDomain(DomainFiles):
    """One domain of a mixture."""

    data: DomainData
    given: DomainAllotment
    spread: tuple[float, float] | None = field(default=None, kw_only=True)
    """Lowest and highest ratio that the run leaves open, where it tells them."""

    @property
    def has_tools(self) -> bool:
        """True if any conversation names tools."""
        return TOOLS in self.data.traits


@dataclass(frozen=True)
class MixturePlan:
    """A mixture with a budget, all shares above 0."""

    domains: tuple[ExportDomain, ...]
    budget_tokens: int
    folder: str
    """Folder of the files."""
    root: str = "."
    """Folder of data that the consumer keeps in a form of its own."""
    sequence_tokens: int | None = None
    """Length of the consumer's samples; None where a sample is an example."""
    spread_source: str | None = None
    """Kind of the spreads of the domains, in words."""

    @property
    def draws(self) -> dict[str, float]:
        """Share of the *examples* by domain: `p_i ~ r_i / mean tokens_i`, which sum to 1."""
        total = sum(domain.given.examples for domain in self.domains)
        return {domain.name: domain.given.examples / total for domain in self.domains}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a record, where all domains have one format: `tools` too, where any conversation has some."""
        first = self.domains[0]
        if first.format == "text":
            return ("text",)
        return (*first.columns, "tools") if any(domain.has_tools for domain in self.domains) else first.columns

    @property
    def examples(self) -> int:
        """Examples that make the budget."""
        return max(round(sum(domain.given.examples for domain in self.domains)), 1)


def describe_plan(plan: MixturePlan) -> Iterator[str]:
    """The budget, then for each domain what it gives, between which ratios it may lie and how often it is repeated."""
    yield f"{plan.budget_tokens:,} tokens in {plan.examples:,} examples"
    for domain in plan.domains:
        given, cut = domain.given, ""
        if abs(given.ratio - given.wanted) > 5e-5:
            cut = f" (asked for: {given.wanted:.2%})"
        spread = f" [{domain.spread[0]:.0%}, {domain.spread[1]:.0%}]" if domain.spread is not None else ""
        yield printable(
            f"{domain.name}: {given.ratio:.2%} of the tokens{spread}{cut}, {given.tokens:,} tokens, "
            f"{given.examples:,.0f} examples of {domain.data.mean_tokens:,.1f} tokens, {given.epochs:.2f} epochs"
        )
    if plan.spread_source is not None:
        yield f"[lowest, highest]: {plan.spread_source}"


def format_comments(lines: Iterator[str]) -> str:
    """`lines` as comments of YAML, Python or a shell."""
    return "".join(f"# {line}\n" for line in lines)


def join_root(root: str, *names: str) -> str:
    """Path of `names` below `root`, normalised; an address as `s3://bucket` keeps its form.

    >>> join_root("./data/", "ja", "*.npy"), join_root("s3://bucket/", "ja")
    ('data/ja/*.npy', 's3://bucket/ja')
    """
    if "://" in root:
        return "/".join([root.rstrip("/"), *names])
    return str(Path(root, *names))


def format_share(value: float) -> str:
    """A share with twelve digits, at which a thousand of them still add up to 1.

    >>> format_share(0.25), format_share(1 / 3)
    ('0.25', '0.333333333333')
    """
    return f"{value:.12g}"


def refuse_kinds(places: Sequence[DomainFiles], reader: str, *, takes: tuple[str, ...]) -> None:
    """Raise :class:`ManyProblemsError` with each domain whose data `reader` cannot read as it lies."""
    readable = " or ".join(KINDS[kind] for kind in takes)
    refuse_if_any(
        [
            Problem(
                join_place("mixture", domain.name),
                f"{reader} reads {readable}, found {KINDS[domain.kind]}",
                "Write it as one file of JSON lines, an object with its text a line.",
            )
            for domain in places
            if domain.kind not in takes
        ]
    )


def refuse_unlike(places: Sequence[DomainFiles], reader: str, *, fields: bool) -> None:
    """Raise :class:`ManyProblemsError` unless all domains have one format, and with `fields` one text field."""
    first = places[0]
    problems = []
    for domain in places:
        if domain.format != first.format:
            found = f"is of `format: {domain.format}`, '{first.name}' of `format: {first.format}`"
            problems.append(
                Problem(join_place("mixture", domain.name), f"{found}, and {reader} takes one", "Convert one of them.")
            )
        elif fields and domain.columns != first.columns:
            found = f"has its text in '{domain.text_field}', '{first.name}' in '{first.text_field}'"
            problems.append(
                Problem(join_place("mixture", domain.name), f"{found}, and {reader} takes one", "Rename the field.")
            )
    refuse_if_any(problems)


INTERLEAVE = "Export --to interleave, which gives every record as it was counted, or write the data otherwise."
PATTERN_SIGNS = ("[", "]", "*", "?", "::", "$")
"""Signs that `load_dataset` takes for a pattern, a chain of addresses or a variable."""


def refuse_patterns(places: Sequence[DomainFiles], reader: str) -> None:
    """Raise :class:`ManyProblemsError` with each domain whose path `load_dataset` would not take for a name."""
    refuse_if_any(
        [
            Problem(
                join_place("mixture", domain.name),
                f"{reader} takes '{sign}' of {part} for a pattern",
                f"Name a path without {' '.join(PATTERN_SIGNS)}, a link perhaps; --to interleave takes any.",
            )
            for domain in places
            for part in domain.parts
            for sign in PATTERN_SIGNS
            if sign in part
        ]
    )


TABLE_READINGS = {DATES: "reads texts that are all dates as times"}
"""Readings of every trainer that loads JSON lines by `datasets`."""


def list_ignored_readings(domains: Sequence[ExportDomain]) -> dict[str, str]:
    """Readings of a trainer that hands whole messages to the template, by trait: what was ignored comes back."""
    traits = [trait for domain in domains for trait in domain.data.traits if trait.startswith(IGNORED)]
    return {trait: f"hands the ignored '{trait.removeprefix(IGNORED)}' to the template" for trait in traits}


def refuse_traits(domains: Sequence[ExportDomain], reader: str, readings: Mapping[str, str]) -> None:
    """Raise :class:`ManyProblemsError` with each trait of the data that `reader` reads otherwise than it was counted.

    `readings` says, by trait, what the reader makes of it.
    """
    refuse_if_any(
        [
            Problem(join_place("mixture", domain.name), f"{reader} {readings[trait]} ({place})", INTERLEAVE)
            for domain in domains
            for trait, place in domain.data.traits.items()
            if trait in readings
        ]
    )
