"""The mixture as a table for people and spreadsheets, whatever the trainer."""

from __future__ import annotations

import csv
import io

from aftermix.mixture.exports.plan import Files, MixturePlan, format_share

COLUMNS = (
    "domain",
    "wanted_ratio",
    "ratio",
    "tokens",
    "examples",
    "epochs",
    "tokens_held",
    "examples_held",
    "mean_tokens",
)
SPREAD_COLUMNS = ("lowest_ratio", "highest_ratio")
"""Only where the run tells how far its ratios spread."""
FILE = "mixture.csv"


def write_table(plan: MixturePlan) -> Files:
    """`mixture.csv`: a row a domain. Ratios are of tokens; `..._held` is what one epoch of the data has."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    spreads = plan.spread_source is not None
    rows.writerow([*COLUMNS, *(SPREAD_COLUMNS if spreads else ())])
    for domain in plan.domains:
        given, data = domain.given, domain.data
        shares = [format_share(given.wanted), format_share(given.ratio)]
        amounts = [given.tokens, round(given.examples), f"{given.epochs:.4f}"]
        held = [data.tokens, data.examples, f"{data.mean_tokens:.2f}"]
        spread = [format_share(end) for end in domain.spread or ()] if spreads else []
        rows.writerow([domain.name, *shares, *amounts, *held, *spread])
    return {FILE: text.getvalue()}
