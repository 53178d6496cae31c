"""The page, made of the results: `python -m studies.mergemix.page`.

With `--tiny` it is made of a copy of the results, so that the page of the repository stays as it is.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from benchmarks.tiny import copy_results, parse_options

from aftermix.files import write_atomically
from aftermix.mixture.cost import MANUAL_RUNS, list_mixture_costs
from studies.mergemix.domains import CAPABILITIES, DOMAINS, PARTS, WINDOW_TOKENS
from studies.mergemix.figures import (
    OVERALL,
    Result,
    apart,
    bits_of,
    correlation,
    line,
    over_seeds,
    regret,
    reproduced,
    utility_of,
)
from studies.mergemix.picture import draw_ranks
from studies.mergemix.plan import LONG, SHORT
from studies.mergemix.proxy import ITEMS
from studies.world.data import SELECT_TOKENS
from studies.world.figures import mean, table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAPER_RANKS = {OVERALL: 0.92, "math": 0.84, "code": 0.80}
PARAMETERS = 1.38e6
RUNS = 17
"""Models that RegMix learns from: those that check the ranks, and the experts."""
POINTS, VERIFIED = 40, 8
"""Merges that a mixture run measures on search and on select items."""


def write_page(folder: Path = RESULTS) -> None:
    """`README.md` and the picture, beside the folder of results, of all seeds that have results."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("seed-*.json"))]
    introduction = (HERE / "introduction.md").read_text(encoding="utf-8").strip()
    draw_ranks(results, folder.parent / "ranks.png")
    seeds = ", ".join(str(result["seed"]) for result in results)
    measured = f"`python -m studies.mergemix.run --seed {seeds.replace(',', '')}`. {results[0]['machine']}. "
    measured += f"Seeds {seeds}; means with 95 % t-intervals over seeds."
    sections = [_ranks(results), _ratios(results), _retrained(results), _nested(results), _halves(results), _cost()]
    write_atomically(folder.parent / "README.md", "\n\n".join([introduction, measured, *sections]) + "\n")


def _ranks(results: list[Result]) -> str:
    again, body = reproduced(results), []
    for name in (OVERALL, *CAPABILITIES):
        own = mean([correlation(result)[name] for result in results])
        small = mean([correlation(result, of="merged_small")[name] for result in results])
        null = mean([correlation(result, of="null")[name] for result in results])
        row = [name, own.shown(2), small.shown(2), null.shown(2), again[name].shown(2) if again else ""]
        if name == OVERALL:
            row += ["", ""]
        else:
            slope, offset = (mean([line(result, name)[place] for result in results]) for place in (0, 1))
            row += [slope.shown(2), offset.shown(1, sign=True)]
        body.append([*row, f"{PAPER_RANKS[name]:.2f}" if name in PAPER_RANKS else ""])
    heads = ["Spearman over 13 mixtures", "merged, this base", "merged, smaller base"]
    heads += ["experts alone, no merge", "trained, another seed"]
    heads += ["slope", "trained minus merged, % of base", "paper"]
    lost, null_lost = (mean([regret(result, of=of) for result in results]).shown(2) for of in ("merged", "null"))
    ahead = mean([_rank_ahead(result) for result in results]).shown(2, sign=True)
    return "\n\n".join(
        [
            "## Do merges rank mixtures as training does? (Table 2, Figures 2 and 3)",
            table(heads, body),
            f"Taking the mixture whose merge is best among the 13 loses {lost} standard deviations of utility against "
            f"the best trained one; by the experts alone {null_lost}. Overall the experts' own scores, weighed by the "
            f"shares, are ahead of merges by {ahead} in Spearman's correlation. Slope and offset are of bits per byte: "
            "trained models over their merges.",
            "![ranks of merged and of trained models](ranks.png)",
        ]
    )


def _rank_ahead(result: Result) -> float:
    """Rank correlation of the null proxy minus that of merges."""
    return correlation(result, of="null")[OVERALL] - correlation(result)[OVERALL]


def _ratios(results: list[Result]) -> str:
    body = [
        [name, *(mean([result["ratios"][name][domain] for result in results]).shown(2) for domain in DOMAINS)]
        for name in results[0]["ratios"]
        if name != "nested"
    ]
    return "\n\n".join(["## Ratios found", table(["share of", *DOMAINS], body)])


def _retrained(results: list[Result]) -> str:
    parts = ["## Models trained at these ratios (Table 1)"]
    for rows, tokens in (("short", SHORT), ("long", LONG)):
        parts += [f"### {tokens:,} tokens", _methods(results, rows)]
    singles = [
        [name, over_seeds(results, partial(bits_of, rows="experts", name=name)).shown(2)]
        + [
            mean([_share(result, "experts", name, capability) for result in results]).shown()
            for capability in CAPABILITIES
        ]
        for name in DOMAINS
    ]
    parts += [f"### A single domain, {SHORT:,} tokens", table(["", "bits, % of base", *CAPABILITIES], singles)]
    return "\n\n".join(parts)


def _methods(results: list[Result], rows: str) -> str:
    names = sorted(
        results[0][rows], key=lambda name: -over_seeds(results, partial(utility_of, rows=rows, name=name)).value
    )
    body = []
    for name in names:
        worth, bits = (partial(figure, rows=rows, name=name) for figure in (utility_of, bits_of))
        ours_worth, ours_bits = (partial(figure, rows=rows, name="mergemix") for figure in (utility_of, bits_of))
        lead = ["", ""]
        if name != "mergemix":
            lead = [
                apart(results, ours_worth, worth).shown(2, sign=True),
                apart(results, ours_bits, bits).shown(2, sign=True),
            ]
        each = [
            mean([_share(result, rows, name, capability) for result in results]).shown() for capability in CAPABILITIES
        ]
        body.append([name, over_seeds(results, worth).shown(2), over_seeds(results, bits).shown(2), *lead, *each])
    heads = ["", "utility", "bits, % of base", "mergemix minus it: utility", "mergemix minus it: bits", *CAPABILITIES]
    return table(heads, body)


def _nested(results: list[Result]) -> str:
    body = [
        [name]
        + [
            mean([result["ratios"]["nested"][f"{name}-{place}"] for result in results]).shown(2)
            for place in range(PARTS)
        ]
        for name in DOMAINS
    ]
    nested, flat = (partial(utility_of, rows="long", name=name) for name in ("nested", "mergemix"))
    lead = apart(results, nested, flat).shown(2, sign=True)
    return "\n\n".join(
        [
            "## Hierarchy: eight sub-domains, top-down (Table 3)",
            table(["share of the half", *map(str, range(PARTS))], body),
            f"Trained on {LONG:,} tokens, `nested` minus `mergemix` is {lead} in utility.",
        ]
    )


def _halves(results: list[Result]) -> str:
    body = []
    for name in ("static", "recalibrated"):
        worth, bits = (partial(figure, rows="halves", name=name) for figure in (utility_of, bits_of))
        body.append([name, over_seeds(results, worth).shown(2), over_seeds(results, bits).shown(2)])
    anew, static = (partial(utility_of, rows="halves", name=name) for name in ("recalibrated", "static"))
    moved = mean([_moved(result) for result in results]).shown(2)
    return "\n\n".join(
        [
            "## Static or recalibrated half-way (Figure 6)",
            table(["second half", "utility", "bits, % of base"], body),
            f"The ratios move by {moved} (total variation). Recalibrated minus static: "
            f"{apart(results, anew, static).shown(2, sign=True)} in utility.",
        ]
    )


def _cost() -> str:
    """Training alone, as the paper counts it."""
    search, select = (ITEMS[part] * WINDOW_TOKENS * len(CAPABILITIES) for part in ("search", "select"))
    text = SELECT_TOKENS * len(CAPABILITIES)
    rows = list_mixture_costs(
        parameters=PARAMETERS,
        expert_tokens=[SHORT] * len(DOMAINS),
        run_tokens=SHORT,
        runs=RUNS,
        proxy_tokens=2 * SHORT,
        evaluated={
            "mergemix": POINTS * search + VERIFIED * select,
            "regmix": RUNS * text,
            "doremi": SHORT,
            "manual": MANUAL_RUNS * text,
        },
    )
    body = [
        [
            row["method"],
            f"{row['runs']}",
            f"{row['trained_tokens']:,.0f}",
            f"{row['relative']:.2f}",
            f"{row['relative_whole']:.2f}",
        ]
        for row in rows
    ]
    heads = ["", "runs", "tokens trained", "cost, mergemix is 1", "with evaluation"]
    return "\n\n".join(["## What finding the ratios costs (Table 6)", table(heads, body)])


def _share(result: Result, rows: str, name: str, capability: str) -> float:
    return float(100 * result[rows][name][capability] / result["base"][capability])


def _moved(result: Result) -> float:
    first, second = (result["ratios"][name] for name in ("mergemix", "recalibrated"))
    return float(sum(abs(first[name] - second[name]) for name in DOMAINS) / 2)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parse_options(parser, lambda folder: {"results": folder / "mergemix-page" / "results"})
    if options.tiny:
        copy_results(RESULTS, options.results)
    write_page(options.results)


if __name__ == "__main__":
    main()
