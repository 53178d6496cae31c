"""Puzzles with their answers from reasoning-gym's seeded generators, by domain: `python puzzles.py OUT.json`.

A program of its own, so that the package's dependencies stay out of the environment that aftermix runs in. With
`--tiny` it does without the package, and writes a few sums for each domain.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

GENERATORS: Mapping[str, Sequence[str]] = {
    "counts": ("leg_counting", "coin_flip"),
    "dates": ("calendar_arithmetic", "time_intervals"),
    "sums": ("chain_sum", "simple_equations", "gcd", "fraction_simplification", "lcm"),
    "logic": ("knights_knaves", "syllogism", "aiw", "family_relationships"),
}
"""Domain -> generators of the package, as many puzzles of each."""
PUZZLES, TINY_PUZZLES = 6_000, 400
PUZZLES_A_DOCUMENT = 7
SEED = 0
Puzzles = Sequence[Mapping[str, str]]


def list_documents(domain: str, sets: Sequence[Puzzles]) -> dict[str, list[str]]:
    """Documents of puzzles from all sets in turn."""
    puzzles = [_write_puzzle(each[number]) for number in range(len(sets[0])) for each in sets]
    starts = range(0, len(puzzles), PUZZLES_A_DOCUMENT)
    return {f"{domain}/{start:06d}": puzzles[start : start + PUZZLES_A_DOCUMENT] for start in starts}


def generate(generators: Sequence[str]) -> list[Puzzles]:
    """A set from each of the package's generators."""
    import reasoning_gym  # type: ignore[import-not-found]

    size = PUZZLES // len(generators)
    return [reasoning_gym.create_dataset(name, size=size, seed=SEED) for name in generators]


def make_sums(domain: str) -> list[Puzzles]:
    """One set of sums."""
    draws = random.Random(domain)  # noqa: S311
    pairs = [(draws.randrange(1000), draws.randrange(1000)) for _ in range(TINY_PUZZLES)]
    return [[{"question": f"What is {a} plus {b}, of {domain}?", "answer": str(a + b)} for a, b in pairs]]


def _write_puzzle(entry: Mapping[str, str]) -> str:
    question, answer = (re.sub(r"\s+", " ", str(entry[key])).strip() for key in ("question", "answer"))
    return f"{question} Answer: {answer}"


def main() -> None:
    """Write the file: documents by domain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", metavar="OUT.json")
    parser.add_argument(
        "--tiny",
        nargs="?",
        type=Path,
        const=Path("runs/tiny"),
        metavar="FOLDER",
        help="a few sums, written to FOLDER (default: runs/tiny) where no file is named",
    )
    options = parser.parse_args()
    if not options.output and not options.tiny:
        parser.error("name the file to write")

    output = options.output or options.tiny / "puzzles.json"
    made = {
        domain: list_documents(domain, make_sums(domain) if options.tiny else generate(generators))
        for domain, generators in GENERATORS.items()
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
