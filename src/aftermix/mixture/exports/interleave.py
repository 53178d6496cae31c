"""`datasets.interleave_datasets`: a Python file whose `mixture()` gives the examples in order.

Probabilities are per example: `p_i ~ r_i / mean tokens_i`. Domains without a share are left out (a probability of 0
keeps `all_exhausted` from stopping). Each domain is shuffled and goes on for ever, so no stopping strategy comes into
play, and `take` ends the stream where the examples are expected to make the budget.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

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

READERS = {
    "json": 'load_dataset("json", data_files=files, split="train")',
    "parquet": 'load_dataset("parquet", data_files=files, split="train")',
    "text": 'load_dataset("text", data_files=files, split="train", sample_by="document")',
    "saved": "concatenate_datasets([load_from_disk(file) for file in files])",
}
NAMES = ("Dataset", "IterableDataset", "concatenate_datasets", "interleave_datasets", "load_dataset", "load_from_disk")
CODE = '''\
from datasets import {imports}

DOMAINS = {domains}
EXAMPLES = {examples}
COLUMNS = {columns}


def domain(name: str) -> Dataset:
    """The records of one domain, without what no domain shares."""
    kind, files, text_field = (DOMAINS[name][key] for key in ("kind", "files", "text_field"))
{reading}
    if COLUMNS == ["text"] and text_field != "text":
        found = found.select_columns([text_field]).rename_column(text_field, "text")
    return found.select_columns(COLUMNS)


def mixture(seed: int = 0) -> IterableDataset:
    """The examples of the budget; a domain that ends begins again, in the same shuffled order."""
    parts = [domain(name).shuffle(seed=seed).to_iterable_dataset().repeat(None) for name in DOMAINS]
    probabilities = [entry["probability"] for entry in DOMAINS.values()]
    mixed = interleave_datasets(parts, probabilities=probabilities, seed=seed, stopping_strategy="first_exhausted")
    return mixed.take(EXAMPLES)
'''


def check_interleave(places: Sequence[DomainFiles]) -> None:
    """Raise :class:`ManyProblemsError` for domains of different formats, or of several kinds of files."""
    refuse_kinds(places, "`datasets`", takes=("json", "parquet", "saved", "text"))
    refuse_unlike(places, "`interleave_datasets`", fields=False)


def interleave(plan: MixturePlan) -> Files:
    """`mixture.py`, whose `mixture()` is an `IterableDataset`."""
    first = plan.domains[0]
    kinds = {domain.kind for domain in plan.domains}
    reading = "\n".join(_write_readers(kinds))
    code = CODE.format(
        imports=", ".join(name for name in NAMES if name in reading or name in CODE),
        domains="{\n" + "".join(_write_entries(plan)) + "}",
        examples=plan.examples,
        columns=json.dumps(["text"] if first.format == "text" else list(first.columns)),
        reading=reading,
    )
    title = '"""A mixture for `datasets`: `from mixture import mixture`."""'
    return {"mixture.py": f"{title}\n{format_comments(describe_plan(plan))}\n{code}"}


def _write_readers(kinds: set[str]) -> Iterator[str]:
    for kind in READERS:
        if kind in kinds:
            yield f'    if kind == "{kind}":'
            yield f"        found = {READERS[kind]}"


def _write_entries(plan: MixturePlan) -> Iterator[str]:
    for domain in plan.domains:
        text_field = "text" if domain.kind == "text" else domain.text_field
        yield f"    {json.dumps(domain.name)}: {{\n"
        yield f'        "kind": {json.dumps(domain.kind)},\n'
        yield f'        "files": {json.dumps(list(domain.parts))},\n'
        yield f'        "text_field": {json.dumps(text_field)},\n'
        yield f'        "probability": {format_share(plan.draws[domain.name])},\n'
        yield "    },\n"
