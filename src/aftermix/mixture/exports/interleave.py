"""`datasets.interleave_datasets`: a Python file whose `mixture()` gives the examples in order.

Probabilities are per example: `p_i ~ r_i / mean tokens_i`. Domains without a share are left out (a probability of 0
keeps `all_exhausted` from stopping). Each domain is shuffled and goes on for ever, so no stopping strategy comes into
play, and `take` ends the stream where the examples are expected to make the budget.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from aftermix.mixture.exports.domain_data import SYSTEM_COLUMN
from aftermix.mixture.exports.plan import (
    DomainFiles,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    format_share,
    refuse_kinds,
    refuse_unlike,
)

SCRIPT = Path(__file__).with_name("interleave_script.py")
BEGIN, END = "# begin", "# end\n"
"""Marks in the script around what the mixture is of."""


def check_interleave(places: Sequence[DomainFiles]) -> None:
    """Raise :class:`ManyProblemsError` for domains of different formats, or of several kinds of files."""
    refuse_kinds(places, "`datasets`", takes=("json", "parquet", "saved", "text"))
    refuse_unlike(places, "`interleave_datasets`", fields=False)


def interleave(plan: MixturePlan) -> Files:
    """`mixture.py`, whose `mixture()` is an `IterableDataset`.

    It is the script beside this module with the domains of the plan, and reads data as :mod:`aftermix.training.data`
    does where tokens are counted: each file by itself, the columns that were counted, and no key that is null or
    ignored.
    """
    head, rest = SCRIPT.read_text(encoding="utf-8").split(BEGIN)
    title, imports = head.split("\n", 1)
    constants = (
        "DOMAINS = {\n" + "".join(_write_entries(plan)) + "}\n"
        f"COLUMNS = {json.dumps(list(plan.columns))}\n"
        f"EXAMPLES = {plan.examples}\n"
    )
    return {"mixture.py": f"{title}\n{format_comments(describe_plan(plan))}{imports}{constants}{rest.split(END)[1]}"}


def _write_entries(plan: MixturePlan) -> Iterator[str]:
    for domain in plan.domains:
        text_field = "text" if domain.kind == "text" else domain.text_field
        yield f"    {json.dumps(domain.name)}: {{\n"
        yield f'        "kind": {json.dumps(domain.kind)},\n'
        yield f'        "files": {json.dumps(list(domain.parts))},\n'
        yield f'        "text_field": {json.dumps(text_field)},\n'
        if SYSTEM_COLUMN in domain.data.traits:
            yield '        "system": True,\n'
        if domain.ignored:
            yield f'        "ignored": {json.dumps(list(domain.ignored))},\n'
        yield f'        "probability": {format_share(plan.draws[domain.name])},\n'
        yield "    },\n"
