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
FILE = "mixture.csv"


def write_table(plan: MixturePlan) -> Files:
    """`mixture.csv`: a row a domain. Ratios are of tokens; `..._held` is what one epoch of the data has."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for domain in plan.domains:
        given, data = domain.given, domain.data
        shares = [format_share(given.wanted), format_share(given.ratio)]
        amounts = [given.tokens, round(given.examples), f"{given.epochs:.4f}"]
        rows.writerow([domain.name, *shares, *amounts, data.tokens, data.examples, f"{data.mean_tokens:.2f}"])
    return {FILE: text.getvalue()}
