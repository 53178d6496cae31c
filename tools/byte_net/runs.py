"""Scenarios of run folders: searches, mixtures, trees and verifications, whole, killed, resumed, and read again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .merges import CALIBRATE, CALIBRATED, RANKED
from .scenario import Command, KillMoment, Scenario, commands, evaluated, job, trained

SEARCH = {"trials": 7, "startup": 4, "top": 2}
MIXTURE = {"points": 7, "repeats": 1, "verify": 1}
CONSUMERS = (
    *("megatron", "megatron-bridge", "olmo-core", "interleave"),
    *("llamafactory", "axolotl", "trl", "ms-swift", "streaming"),
)


def list_searches() -> Iterator[Scenario]:
    """Yield all scenarios of searches."""
    yield search()
    yield search_settings()
    yield search_killed()


def search() -> Scenario:
    """Return a search, its page, its recipe, more trials of it, and other objectives over its scores."""
    merge = {"method": "dare_linear", "density": 0.6, "rescale": "l1", "exclude": []}
    objective = {"name": "numbers first", "tasks": {"numbers": 3, "colours": 1}, "floors": {"colours": 0.3}}
    front = [{"name": "colours", "tasks": {"colours": 1}}, {"name": "numbers", "tasks": {"numbers": 1}}]

    def file(**changed: Any) -> dict[str, Any]:
        return job(merge=merge, evaluate=evaluated(), search={**SEARCH, **changed})

    files = {
        "search.yaml": file(),
        "more.yaml": file(trials=9),
        "floors.yaml": file(trials=2, objective=objective),
        "front.yaml": file(trials=3, objective=front, baselines=False),
        "paper.yaml": file(trials=5, preset="paper", seed=4, baselines=False),
    }
    lines = [
        "search search.yaml -o run",
        "report run",
        "export run --to mergekit -o run.yaml",
        "search more.yaml --resume run",
        "search --resume run",
        "search floors.yaml -o floors --from run",
        "search front.yaml -o front --from run",
        "search paper.yaml -o paper",
        "report front",
    ]
    return Scenario("search", files, commands(*lines))


def search_settings() -> Scenario:
    """Return searches over settings of the merge: options, factor, densities, ratios, order."""
    options = {"density": {"low": 0.1, "high": 0.9, "each": True}, "normalize": [True, False], "lambda": [0.5, 1.0]}
    ratios = {"weights": False, "ratio": {"low": 0.1, "high": 0.5, "step": 0.1}, "order": ["rotation", "first"]}
    small = {**SEARCH, "baselines": False}
    files = {
        "calibrate.yaml": job(own=CALIBRATED, calibrate=CALIBRATE),
        "options.yaml": job(merge={"method": "ties"}, evaluate=evaluated(), search={**small, "over": options}),
        "ratios.yaml": job(merge={"method": "obim", **RANKED}, evaluate=evaluated(), search={**SEARCH, "over": ratios}),
    }
    lines = ["calibrate calibrate.yaml -o statistics", "search options.yaml -o options", "search ratios.yaml -o ratios"]
    return Scenario("search-settings", files, commands(*lines))


def search_killed() -> Scenario:
    """Return a search that is killed at its third trial and gone on with, and one that never stopped."""
    small = {**SEARCH, "baselines": False}
    files = {"search.yaml": job(merge={"method": "ties"}, evaluate=evaluated(), search=small)}
    killed = Command("search search.yaml -o run", kill=KillMoment("run/trials.jsonl", lines=3))
    return Scenario("search-killed", files, commands(killed, "search --resume run", "search search.yaml -o whole"))


def list_mixtures() -> Iterator[Scenario]:
    """Yield all scenarios of mixtures."""
    yield mixture()
    yield mixture_of_three()
    yield mixture_tree("top_down")
    yield mixture_tree("bottom_up")
    yield mixture_verified()
    yield mixture_killed()


def mixture() -> Scenario:
    """Return a mixture of two domains, its page and landscape, all exports, and another utility over its scores."""
    data = trained("b", "c")
    utility = {"weights": {"numbers": 2, "colours": 1}, "normalisation": "percentile", "floors": {"colours": 0.2}}
    section = {**MIXTURE, "rounds": [2], "priors": {"ours": {"b": 0.3, "c": 0.7}}, "utility": utility}
    other = {**section, "utility": "0.5 * numbers + min(colours, 0.4)", "pull": 0.1, "toward": "ours"}
    files = {
        "mixture.yaml": job(evaluate=evaluated(), mixture=section, train=data),
        "other.yaml": job(evaluate=evaluated(), mixture=other, train=data),
        "data.yaml": {"base": job()["base"], "train": {**data, "cache": "counts"}},
    }
    lines = [
        "mixture mixture.yaml -o run",
        "report run",
        *(f"landscape run -o landscape.{kind}" for kind in ("svg", "png")),
        "mixture --resume run",
        "mixture other.yaml -o other --from run",
        *(f"export run --to {consumer} -o {consumer}" for consumer in CONSUMERS),
        "export run --to csv -o mixture.csv --data data.yaml --tokens 2e3 --max-epochs 3",
        "export run/best.json --to megatron -o rooted --data data.yaml --root prefixes --sequence-length 64",
        "export run --to mergekit -o run.yaml",
    ]
    return Scenario("mixture", files, commands(*lines))


def mixture_of_three() -> Scenario:
    """Return a mixture of three domains within bounds and caps, by capabilities, and its triangle."""
    section = {
        **MIXTURE,
        "points": 9,
        "capabilities": {"both": ["colours", "numbers"]},
        "bounds": {"b": [0.1, 0.6]},
        "budget_tokens": 4000,
        "max_epochs": 3,
        "toward": "tokens",
        "pull": 0.2,
    }
    files = {"mixture.yaml": job("bcd", merge={"method": "ties"}, evaluate=evaluated(), mixture=section)}
    lines = ["mixture mixture.yaml -o run", "landscape run -o landscape.svg"]
    return Scenario("mixture-of-three", files, commands(*lines))


def mixture_tree(direction: str) -> Scenario:
    """Return a mixture over a tree of domains, its page, one group's landscape, and an export."""
    if direction == "top_down":
        asked: dict[str, Any] = {"tree": {"left": ["b", "c"], "right": ["d", "e"]}, "bounds": {"left": [0.2, 0.8]}}
        asked["priors"] = {"ours": {"b": 0.1, "c": 0.3, "d": 0.4, "e": 0.2}}
    else:
        tree = {"left": {"b": None, "deep": ["c", "d"]}, "e": None}
        asked = {"tree": tree, "experts": True, "levels": {"deep": {"utility": "numbers", "points": 6}}}
    section = {**MIXTURE, "direction": direction, **asked}
    files = {"mixture.yaml": job("abcde", evaluate=evaluated(), mixture=section, train=trained("b", "c", "d", "e"))}
    lines = [
        "mixture mixture.yaml -o run",
        "report run",
        "landscape run/levels/left -o left.svg",
        "export run --to csv -o mixture.csv",
        "export run --to axolotl -o axolotl --max-epochs 1 --tokens 1e3",
    ]
    return Scenario(f"mixture-tree-{direction}", files, commands(*lines))


def mixture_verified() -> Scenario:
    """Return a mixture whose merges are held against trainings, with the ratios of DoReMi, and more trainings later."""
    files = {"mixture.yaml": job(evaluate=evaluated(), mixture=MIXTURE, train=trained("b", "c", save_steps=2))}
    lines = [
        "mixture mixture.yaml -o run --verify 2 --doremi",
        "mixture mixture.yaml -o run --verify 3 --doremi",
        "mixture --resume run --verify 5 --tokens 640",
        "report run",
    ]
    return Scenario("mixture-verified", files, commands(*lines))


def mixture_killed() -> Scenario:
    """Return a mixture that is killed at its third point, then in a training of its check, and gone on with."""
    files = {"mixture.yaml": job(evaluate=evaluated(), mixture=MIXTURE, train=trained("b", "c", save_steps=2))}
    measuring = Command("mixture mixture.yaml -o run", kill=KillMoment("run/trials.jsonl", lines=3))
    training = Command("mixture --resume run --verify 3", kill=KillMoment("run/trained/*/model.safetensors"))
    return Scenario("mixture-killed", files, commands(measuring, training, "mixture --resume run --verify 3"))
