"""Megatron-LM, and NeMo's `paths`: a blend `30 prefixA 70 prefixB`.

Samples are of one length, so weights are ratios of tokens. A data set that a blend draws on more often than it has
samples is gone through again; the blend itself holds every ratio to within one sample.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from aftermix.errors import MixtureError, join_place
from aftermix.mixture.exports.plan import (
    ExportDomain,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    format_share,
    join_root,
)

TEMPLATED = {"chat": "conversations as the base's chat template writes them", "completion": "prompts with completions"}


def write_megatron(plan: MixturePlan) -> Files:
    """`data_args.txt` for `--data-args-path`, which takes no comments, and the arguments with comments.

    Raises :class:`MixtureError` for a root or a key that the file, split at white space, cannot hold.
    """
    if plan.root.split() != [plan.root]:
        remedy = "Name a folder without them, or a link to it."
        raise MixtureError("--root", f"the blend is split at white space, found '{plan.root}'", remedy)
    for domain in plan.domains:
        key = _name_key(domain)
        if key.split() != [key]:
            found = f"the blend is split at white space, and its prefix ends in the key '{key}'"
            raise MixtureError(
                join_place("mixture", domain.name), found, "Rename the field of the text, and its `text_field`."
            )
    blend = list_blend(plan)
    pairs = [f"{weight} {prefix}" for weight, prefix in blend]
    return {"data_args.txt": "\n".join(pairs) + "\n", "arguments.sh": _write_arguments(plan, blend)}


def list_blend(plan: MixturePlan) -> list[tuple[str, str]]:
    """Weight of each domain, in hundredths of the tokens, and the prefix of its files."""
    return [
        (format_share(100 * domain.given.ratio), join_root(plan.root, f"{domain.name}_{_name_key(domain)}_document"))
        for domain in plan.domains
    ]


def describe_prefixes(plan: MixturePlan) -> Iterator[str]:
    """Lines on how the files of the prefixes are made from the data."""
    keys = {_name_key(domain): None for domain in plan.domains}
    yield f"Each prefix: preprocess_data.py --output-prefix {plan.root}/NAME --json-keys KEY --append-eod"
    yield f"KEY: {', '.join(keys)}"
    for domain in plan.domains:
        if domain.format in TEMPLATED:
            yield f"{domain.name}: its texts are {TEMPLATED[domain.format]}"


def _name_key(domain: ExportDomain) -> str:
    """Key that the tool was told by `--json-keys`, which it appends to its `--output-prefix`."""
    return domain.text_field if domain.format == "text" and domain.kind != "text" else "text"


def _write_arguments(plan: MixturePlan, blend: list[tuple[str, str]]) -> str:
    words = [f"  {weight} {shlex.quote(prefix)}" for weight, prefix in blend]
    samples = [f"--train-samples {round(plan.budget_tokens / plan.sequence_tokens)}"] if plan.sequence_tokens else []
    length = [f"--seq-length {plan.sequence_tokens}"] if plan.sequence_tokens else []

    return "\n".join(
        [
            format_comments(iter([*describe_plan(plan), *describe_prefixes(plan)])).rstrip(),
            "# --data-args-path data_args.txt says the same as --data-path.",
            "MIXTURE_ARGS=(",
            *(f"  {option}" for option in [*length, *samples]),
            "  --data-path",
            *(f"  {word}" for word in words),
            ")\n",
        ]
    )
