"""Scenarios of merges: every row of the table of methods, pairs without a name, odd inputs, mergekit's recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .scenario import WORLD, Scenario, Section, commands, job

CALIBRATED = {name: {"calibration": f"{WORLD}/texts/{domain}.jsonl"} for name, domain in zip("abc", "bcd", strict=True)}
CALIBRATE = {"samples": 20, "context": 48, "long_texts": "cut", "device": "cpu", "threads": 1}
RANKED = {"statistics": "statistics"}
"""Where the scenarios of saliency lay the statistics that they measure first."""

VARIANTS: Mapping[str, tuple[Section, ...]] = {
    "linear": ({}, {"dtype": "float16"}),
    "task_arithmetic": (
        {},
        {"lambda": 0.7, "exclude": ["embed_tokens", "model.layers.0.*", "re:norm\\.weight$", "kind:head"]},
        {"dtype": "float32", "max_shard_bytes": 20_000},
    ),
    "ties": (
        {},
        {"density": 0.3, "scope": "model"},
        {"normalize": False, "election": "count"},
        {"compat": "mergekit", "density": 0.4},
    ),
    "dare_linear": (
        {"density": 0.4},
        {"density": 0.4, "rescale": "l1", "seed": 3},
        {"density": 0.4, "rescale": "none"},
    ),
    "dare_ties": ({"density": 0.4}, {"density": 0.6, "normalize": True, "divisor": "signed"}),
    "della": ({}, {"density": 0.3, "epsilon": 0.2, "rescale": "l1"}),
    "della_linear": ({}, {"density": 0.7, "epsilon": 0.0, "rescale": "none"}),
    "breadcrumbs": (
        {},
        {"density": 0.6, "gamma": 0.1, "scope": "row"},
        {"density": 0.9, "gamma": 0.3, "excess": "gamma"},
    ),
    "breadcrumbs_ties": ({}, {"density": 0.6, "gamma": 0.1, "election": "count"}),
    "tall_mask": ({}, {"lam": 0.2, "agreement": 3}),
    "ties_im": ({}, {"density": 0.2, "order": ["c", "a", "b"]}),
    "ties_obm": (RANKED, {**RANKED, "density": 0.4, "normalize": False}),
    "obim": (RANKED, {**RANKED, "density": 0.25, "order": ["b", "c", "a"]}),
    "slerp": ({},),
    "nuslerp": ({},),
    "nuslerp_deltas": ({},),
    "sce": ({}, {"select_topk": 0.4}),
    "karcher": ({}, {"max_iterations": 3, "tolerance": 1e-3}),
    "model_stock": ({}, {"filter_wise": True}),
    "pcb": ({}, {"density": 0.3, "scores": "softmax"}, {"density": 0.3, "clamp": 0.2}),
    "wudi": ({"steps": 20}, {"steps": 20, "input_axis": "first", "others": "mean"}),
}
"""Options that each method is run with; a test holds the names against the documentation's table."""

CHECKED = ("ties_im", "obim")
PAIRS = (
    ("all", "mean"),
    ("magnitude", "sum"),
    ("magnitude", "mean"),
    ("magnitude", "consensus"),
    ("random", "mean"),
    ("random", "consensus"),
    ("magnitude_sampled", "mean"),
    ("magnitude_sampled", "consensus"),
    ("band", "mean"),
    ("band", "consensus"),
    ("saliency", "sum"),
    ("saliency", "mean"),
    ("saliency", "consensus"),
)


def list_merges() -> Iterator[Scenario]:
    """Yield all scenarios of merges."""
    for method in VARIANTS:
        yield merge_by(method)
    yield merge_pairs()
    yield merge_by_shares()
    yield merge_odd_inputs()
    yield merge_recipes()


def merge_by(method: str) -> Scenario:
    """Return the merges by one method: a tied bfloat16 base and an untied float32 one, each with all its options."""
    files: dict[str, Section] = {}
    lines = []
    for family in ("tied", "untied"):
        if any("statistics" in options for options in VARIANTS[method]):
            files[f"{family}-calibrate.yaml"] = job(family=family, own=CALIBRATED, calibrate=CALIBRATE)
            lines.append(f"calibrate {family}-calibrate.yaml -o {family}-statistics")
        for number, options in enumerate(VARIANTS[method]):
            own = {"statistics": f"{family}-statistics"} if "statistics" in options else {}
            stem = f"{family}-{number}"
            merge = {"method": method, **options, **own}
            files[f"{stem}.yaml"] = job("ab" if method == "slerp" else "abc", family=family, merge=merge)
            lines.append(f"merge {stem}.yaml -o {stem}{' --check' if method in CHECKED else ''}")
    return Scenario(f"merge-{method}", files, commands(*lines))


def merge_pairs() -> Scenario:
    """Return the merges by pairs of rules that have no name."""
    files: dict[str, Section] = {"calibrate.yaml": job(own=CALIBRATED, calibrate=CALIBRATE)}
    lines = ["calibrate calibrate.yaml -o statistics"]
    for intra, inter in PAIRS:
        own = RANKED if intra == "saliency" else {}
        density = {} if intra == "all" else {"density": 0.4}
        stem = f"{intra}-{inter}"
        files[f"{stem}.yaml"] = job(merge={"intra": {"rule": intra, **density}, "inter": inter, **own})
        lines.append(f"merge {stem}.yaml -o {stem}")
    return Scenario("merge-pairs", files, commands(*lines))


def merge_by_shares() -> Scenario:
    """Return merges whose vectors have options of their own, and exclusive ones of vectors without statistics."""
    ratios = {name: {"ratio": ratio} for name, ratio in {"a": 0.1, "b": 0.5, "c": 0.3}.items()}
    densities = {name: {"density": density} for name, density in {"b": 0.5, "c": 0.1}.items()}
    few = {"a": CALIBRATED["a"], "b": CALIBRATED["b"]}
    files = {
        "few.yaml": job(own=few, calibrate={**CALIBRATE, "samples": 5}),
        "magnitude.yaml": job(merge={"method": "obim", **RANKED, "uncalibrated": "magnitude"}),
        "ratios.yaml": job(own=ratios, merge={"method": "ties_im"}),
        "densities.yaml": job(own=densities, merge={"method": "dare_linear", "density": 0.8}),
        "zero.yaml": job(own={"b": {"weight": 0.0}, "c": {"weight": -0.4}}, merge={"method": "ties"}),
        "thresholds.yaml": job(merge={"method": "tall_mask", "lam": {"a": 0.1, "b": 0.5, "c": 0.4}}),
    }
    lines = ["calibrate few.yaml -o statistics"]
    lines += [f"merge {stem}.yaml -o {stem} --check" for stem in ("magnitude", "ratios")]
    lines += [f"merge {stem}.yaml -o {stem}" for stem in ("densities", "zero", "thresholds")]
    return Scenario("merge-shares", files, commands(*lines))


def merge_odd_inputs() -> Scenario:
    """Return merges of vectors that are stored otherwise than the base: adapter, FP8, other names and vocabularies."""
    odd = f"{WORLD}/odd"
    half = {"weight": 0.5}
    wider = {"b": {}, "w": {"model": f"{odd}/wider", **half}}
    files = {
        "adapter.yaml": with_vector({"model": f"{odd}/adapter", **half}, method="ties"),
        "fp8.yaml": with_vector({"model": f"{odd}/fp8", **half}),
        "renamed.yaml": with_vector({"model": f"{odd}/renamed", "prefix": {"language_model.": "model."}, **half}),
        "to-base.yaml": with_vector(wider["w"], vocabulary="base"),
        "to-vector.yaml": with_vector(wider["w"], vocabulary="w"),
        "fp8-base.yaml": {**job("bc"), "base": f"{odd}/fp8"},
    }
    lines = [f"{command} {file}" for file in files for command in (f"merge -o {file.removesuffix('.yaml')}", "doctor")]
    return Scenario("merge-odd-inputs", files, commands(*lines))


def with_vector(vector: Section, **merge: Any) -> dict[str, Any]:
    """Return a file with the experts `b` and `w`, the latter being `vector`."""
    whole = job("b", merge=merge)
    whole["vectors"]["w"] = vector
    return whole


def merge_recipes() -> Scenario:
    """Return merges by recipes of mergekit, and the way back: recipes that are written for it."""
    tied = f"{WORLD}/tied"
    weighed = [
        {"model": f"{tied}/b", "parameters": {"weight": 0.6, "density": 0.5}},
        {"model": f"{tied}/c", "parameters": {"weight": 0.4, "density": 0.3}},
    ]
    bare = [{"model": f"{tied}/{name}"} for name in "bc"]
    base = {"base_model": f"{tied}/base"}
    linear = [{"model": model["model"], "parameters": {"weight": 0.5}} for model in bare]
    files: dict[str, Section] = {
        "ties.yaml": {"merge_method": "ties", **base, "models": weighed, "parameters": {"normalize": True}},
        "dare_ties.yaml": {"merge_method": "dare_ties", **base, "models": weighed, "dtype": "float32"},
        "dare_linear.yaml": {"merge_method": "dare_linear", **base, "models": weighed, "out_dtype": "float16"},
        "linear.yaml": {"merge_method": "linear", "models": linear},
        "slerp.yaml": {"merge_method": "slerp", "base_model": f"{tied}/b", "models": bare, "parameters": {"t": 0.3}},
        "karcher.yaml": {"merge_method": "karcher", "models": bare, "parameters": {"max_iter": 5}},
        "model_stock.yaml": {"merge_method": "model_stock", **base, "models": bare},
    }
    lines = []
    for stem in [file.removesuffix(".yaml") for file in files]:
        lines += [f"merge {stem}.yaml -o {stem}", f"export {stem} --to mergekit -o back-{stem}.yaml"]
    files["ours.yaml"] = job("bc", merge={"method": "ties", "compat": "mergekit", "exclude": ["kind:head", "lm_head"]})
    lines.append("export ours.yaml --to mergekit -o back-ours.yaml")
    return Scenario("merge-recipes", files, commands(*lines))
