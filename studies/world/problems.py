"""Problems in words with their answers from reasoning-gym's seeded generators: `python problems.py OUT.json`.

A program of its own, so that the package's dependencies stay out of the environment that aftermix runs in. With
`--tiny` it does without the package, and writes a few sums.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

GENERATORS = (
    "gsm_symbolic",
    "leg_counting",
    "time_intervals",
    "calendar_arithmetic",
    "family_relationships",
    "coin_flip",
    "syllogism",
    "knights_knaves",
    "aiw",
    "letter_counting",
    "fraction_simplification",
    "simple_equations",
    "gcd",
    "chain_sum",
)
PROBLEMS_OF_EACH, TINY_PROBLEMS = 1400, 600
PROBLEMS_A_DOCUMENT = 7
SEED = 0
Problems = Sequence[dict[str, str]]


def documents(sets: Sequence[Problems]) -> dict[str, list[str]]:
    """Documents of problems from all sets in turn."""
    problems = [_text(data[number]) for number in range(len(sets[0])) for data in sets]
    starts = range(0, len(problems), PROBLEMS_A_DOCUMENT)
    return {f"problems/{start:06d}": problems[start : start + PROBLEMS_A_DOCUMENT] for start in starts}


def generated() -> list[Problems]:
    """A set from each of the package's generators."""
    import reasoning_gym  # type: ignore[import-not-found]

    return [reasoning_gym.create_dataset(name, size=PROBLEMS_OF_EACH, seed=SEED) for name in GENERATORS]


def sums() -> list[Problems]:
    """One set of sums."""
    draws = random.Random(SEED)  # noqa: S311
    pairs = [(draws.randrange(1000), draws.randrange(1000)) for _ in range(TINY_PROBLEMS)]
    return [[{"question": f"What is {a} plus {b}?", "answer": str(a + b)} for a, b in pairs]]


def _text(entry: dict[str, str]) -> str:
    question = re.sub(r"\s+", " ", str(entry["question"])).strip()
    return f"{question} Answer: {str(entry['answer']).strip()}"


def main() -> None:
    """Write the file."""
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

    output = options.output or options.tiny / "problems.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(documents(sums() if options.tiny else generated())), encoding="utf-8")


if __name__ == "__main__":
    main()
