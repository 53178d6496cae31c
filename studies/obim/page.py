"""The page of the studies, made of their results: `python -m studies.obim.page`.

With `--tiny` it is made of a copy of the results, so that the page of the repository stays as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.tiny import copy_results, parse_options

from aftermix.files import write_atomically
from studies.obim import paper
from studies.obim.case import Measured
from studies.obim.claims import Claim, claims_of, claims_table, plainly
from studies.obim.results import Study, accuracy, bits, methods_table, minus, names_of, ranked, summary
from studies.world.figures import table

HERE = Path(__file__).parent
NAMES = ("methods", "recovery", "ablation", "calibration", "order", "count", "cost")


def write_page(results: Path) -> None:
    """`README.md` beside the folder of results: the introduction, and a section for each study that has results."""
    sections = [SECTIONS[name](results) for name in NAMES if (results / f"{name}.json").is_file()]
    introduction = (HERE / "introduction.md").read_text(encoding="utf-8").strip()
    write_atomically(results.parent / "README.md", "\n\n".join([introduction, *sections]) + "\n")


def methods(results: Path) -> str:
    """Tables 1 and 2."""
    study = Study.read(results, "methods")
    tables = {"experts": paper.METHODS_A, "checkpoints": paper.METHODS_B}
    titles = {"experts": "Three experts (Table 1)", "checkpoints": "The base and three checkpoints (Table 2)"}
    parts = [_head("Methods", study)]
    for group, rows in study.groups.items():
        theirs = tables[group]
        claims = claims_of({name: theirs[name] for name in paper.METHODS_A}, "OBIM")
        parts += [
            f"### {titles[group]}",
            f"{_standing(rows, theirs)} {plainly(rows, claims)}",
            methods_table(rows, reference="OBIM", paper=theirs),
            claims_table(rows, claims),
        ]
    return "\n\n".join(parts)


def recovery(results: Path) -> str:
    """Table 2 at equal gain."""
    study = Study.read(results, "recovery")
    seeds = len({row.seed for row in study.groups["checkpoints"]})
    everywhere = [name for name in names_of(study.groups["checkpoints"]) if _times(study, name) == seeds]
    rows = [row for row in study.groups["checkpoints"] if row.name in everywhere]
    claims = claims_of({name: paper.METHODS_B[name] for name in paper.METHODS_A}, "OBIM")
    body = []
    for name in ranked(rows, everywhere, bits):
        own = [row for row in rows if row.name == name]
        apart = ["", ""]
        if name != "OBIM" and "OBIM" in everywhere:
            apart = [minus(rows, "OBIM", name, bits).shown(2, sign=True)]
            apart.append(minus(rows, "OBIM", name, accuracy).shown(sign=True))
        run = [replace(row, targets=(next(iter(row.scores.bits)),)) for row in own]
        cells = [
            summary(run, name, bits).shown(2),
            summary(rows, name, bits).shown(2),
            summary(run, name, accuracy).shown(),
        ]
        cells += [summary(rows, name, accuracy).shown(), *apart]
        body.append([name, *cells, "; ".join(dict.fromkeys(row.setting for row in own))])
    columns = ["", "own bits, % of base", "others' bits, % of base", "own accuracy %", "others' accuracy %"]
    columns += ["OBIM minus it: others' bits", "OBIM minus it: others' accuracy", "setting"]
    return "\n\n".join(
        [
            _head("Recovery at equal gain (Table 2)", study),
            "Every method goes so far that it has half of the best checkpoint's gain in bits on Japanese (select "
            "text); what counts is what is left of Chinese and English, on test text and items. A method that is not "
            "in the table never comes so far with its settings, for one seed at least.",
            plainly(rows, claims),
            table(columns, body),
            claims_table(rows, claims),
        ]
    )


def _times(study: Study, name: str) -> int:
    return sum(row.name == name for row in study.groups["checkpoints"])


def ablation(results: Path) -> str:
    """Table 3."""
    study = Study.read(results, "ablation")
    claims = [
        Claim("TIES+OBM", "TIES", paper.PARTS["TIES+OBM"] - paper.PARTS["TIES"]),
        Claim("OBIM", "TIES+IM", paper.PARTS["OBIM"] - paper.PARTS["TIES+IM"]),
        Claim("TIES+IM", "TIES", paper.PARTS["TIES+IM"] - paper.PARTS["TIES"]),
        Claim("OBIM", "TIES+OBM", paper.PARTS["OBIM"] - paper.PARTS["TIES+OBM"]),
    ]
    parts = [_head("Parts (Table 3)", study)]
    for group, rows in study.groups.items():
        parts += [
            f"### {group.capitalize()}",
            plainly(rows, claims),
            methods_table(rows, reference="OBIM", paper=paper.PARTS if group == "experts" else {}),
            claims_table(rows, claims),
        ]
    return "\n\n".join(parts)


def calibration(results: Path) -> str:
    """Tables 4 and 5."""
    study = Study.read(results, "calibration")
    source, samples = study.groups["source"], study.groups["samples"]
    claims = [
        Claim("own", "mixed", paper.SOURCES["own"] - paper.SOURCES["mixed"]),
        Claim("own", "other", paper.SOURCES["own"] - paper.SOURCES["other"]),
        Claim("mixed", "other", paper.SOURCES["mixed"] - paper.SOURCES["other"]),
    ]
    sizes = claims_of(paper.SAMPLES, "100")
    return "\n\n".join(
        [
            _head("Calibration", study),
            "### What is read (Table 4)",
            "Of each expert in turn the text is exchanged; the figures are of its own domain, averaged over experts.",
            plainly(source, claims),
            _short_table(source, "text", paper.SOURCES),
            claims_table(source, claims),
            "### How much (Table 5)",
            plainly(samples, sizes),
            _short_table(samples, "samples of each expert", paper.SAMPLES),
            claims_table(samples, sizes),
        ]
    )


def order(results: Path) -> str:
    """Table 6."""
    study = Study.read(results, "order")
    place, whole = study.groups["place"], study.groups["order"]
    claims = [
        Claim("first", "rotation", paper.ORDERS["first"] - paper.ORDERS["rotation"]),
        Claim("first", "last", paper.ORDERS["first"] - paper.ORDERS["last"]),
        Claim("rotation", "last", paper.ORDERS["rotation"] - paper.ORDERS["last"]),
    ]
    return "\n\n".join(
        [
            _head("Order (Table 6)", study),
            "The domain of one expert by its place, averaged over the three experts and all orders that give it.",
            plainly(place, claims),
            _short_table(place, "place", paper.ORDERS),
            claims_table(place, claims),
            "All three domains by order:",
            _short_table(whole, "order", {}),
        ]
    )


def count(results: Path) -> str:
    """Table 10."""
    study = Study.read(results, "count")
    parts = [_head("Number of models (Table 10)", study)]
    for group, rows in study.groups.items():
        counts = sorted({int(name.rpartition(" ")[2]) for name in names_of(rows) if " of " in name})
        parts.append(f"### {group.capitalize()}")
        if group == "checkpoints":
            parts += [plainly(rows, _count_claims(counts)), _count_table(rows, counts, paper.COUNTS)]
            parts += ["Before merging:", _short_table([row for row in rows if " of " not in row.name], "model", {})]
        else:
            parts.append(_count_table(rows, counts, None))
    return "\n\n".join(parts)


def _count_claims(counts: Sequence[int]) -> list[Claim]:
    theirs = {n: paper.COUNTS["OBIM"][n] - paper.COUNTS["DARE"][n] for n in counts}
    return [Claim(f"OBIM of {n}", f"DARE of {n}", points) for n, points in theirs.items()]


def cost(results: Path) -> str:
    """Table 11."""
    values = json.loads((results / "cost.json").read_text(encoding="utf-8"))
    columns = ["parameters, method", "s a sample of calibration", "s of saliency and selection", "s of the whole merge"]
    rows = [
        [
            f"{row['size']}, {row['method']}",
            *(f"{row[key]:.3f}" if key in row else "" for key in ("seconds a sample", "select", "merge")),
        ]
        for row in values["rows"]
    ]
    theirs = [
        [f"{n} models of {size}, {gpus}", x, saliency, merging] for n, size, gpus, x, saliency, merging in paper.COST
    ]
    return "\n\n".join(
        [
            "## Cost (Table 11)",
            f"`{values['command']}`. {values['machine']}, {values['threads']} threads. Three experts. Selection "
            "includes opening the models; a merge is from the file to the folder on disk, imports not included.",
            table(columns, rows),
            "The paper:",
            table(columns, theirs),
        ]
    )


SECTIONS: dict[str, Callable[[Path], str]] = {
    "methods": methods,
    "recovery": recovery,
    "ablation": ablation,
    "calibration": calibration,
    "order": order,
    "count": count,
    "cost": cost,
}


def _head(title: str, study: Study) -> str:
    seeds = sorted({row.seed for rows in study.groups.values() for row in rows})
    return f"## {title}\n\n`{study.command}`. {study.machine}. Seeds {', '.join(map(str, seeds))}."


def _standing(rows: Sequence[Measured], theirs: dict[str, float]) -> str:
    """Where OBIM stands among the methods, and by how much the best rival leads or follows."""
    merged = [name for name in names_of(rows)[_alone(rows) :] if not name.startswith("OBIM,")]
    sentences = []
    for label, figure in (("accuracy", accuracy), ("bits per byte", bits)):
        order_here = ranked(rows, merged, figure)
        rival = next(name for name in order_here if name != "OBIM")
        apart = minus(rows, "OBIM", rival, figure).shown(2, sign=True)
        place = order_here.index("OBIM") + 1
        sentences.append(
            f"By {label} OBIM is number {place} of {len(merged)} methods; minus {rival}, the best rival: {apart}."
        )
    ranks = [name for name in sorted(theirs, key=lambda name: -theirs[name]) if name in merged]
    return f"The paper's order: {', '.join(ranks)}. {' '.join(sentences)}"


def _alone(rows: Sequence[Measured]) -> int:
    """How many rows come before the first merge: the base and single models have no setting, methods have."""
    firsts = {row.name: row.setting for row in reversed(rows)}
    return sum(1 for name in names_of(rows) if firsts[name] == "-")


def _short_table(rows: Sequence[Measured], first: str, theirs: dict[str, float]) -> str:
    body = [
        [
            name,
            summary(rows, name, accuracy).shown(),
            summary(rows, name, bits).shown(2),
            f"{theirs[name]:.2f}" if name in theirs else "",
        ]
        for name in names_of(rows)
    ]
    columns = [first, "accuracy %", "bits, % of base", "paper"]
    return table(columns if theirs else columns[:-1], body if theirs else [row[:-1] for row in body])


def _count_table(rows: Sequence[Measured], counts: Sequence[int], theirs: dict[str, dict[int, float]] | None) -> str:
    body = []
    for n in counts:
        obim, dare = f"OBIM of {n}", f"DARE of {n}"
        cells = [str(n)]
        for figure, digits in ((accuracy, 1), (bits, 2)):
            cells += [summary(rows, name, figure).shown(digits) for name in (obim, dare)]
            cells.append(minus(rows, obim, dare, figure).shown(digits, sign=True))
        if theirs:
            cells.append(f"{theirs['OBIM'][n] - theirs['DARE'][n]:+.2f}")
        body.append(cells)
    columns = ["models", "OBIM accuracy %", "DARE accuracy %", "difference"]
    columns += [
        "OBIM bits, % of base",
        "DARE bits, % of base",
        "difference",
        *(["paper's difference"] if theirs else []),
    ]
    return table(columns, body)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parse_options(parser, lambda folder: {"results": folder / "obim-page" / "results"})
    if options.tiny:
        copy_results(HERE / "results", options.results)
    write_page(options.results)


if __name__ == "__main__":
    main()
