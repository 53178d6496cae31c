"""Problems in words with their answers from reasoning-gym's seeded generators: `python problems.py OUT.json`.

A program of its own, so that the package's dependencies stay out of the environment that aftermix runs in.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import reasoning_gym  # type: ignore[import-not-found]

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
PROBLEMS_OF_EACH = 1400
PROBLEMS_A_DOCUMENT = 7
SEED = 0


def documents() -> dict[str, list[str]]:
    """Documents of problems from all generators in turn."""
    sets = [reasoning_gym.create_dataset(name, size=PROBLEMS_OF_EACH, seed=SEED) for name in GENERATORS]
    problems = [_text(data[number]) for number in range(PROBLEMS_OF_EACH) for data in sets]
    starts = range(0, len(problems), PROBLEMS_A_DOCUMENT)
    return {f"problems/{start:06d}": problems[start : start + PROBLEMS_A_DOCUMENT] for start in starts}


def _text(entry: dict[str, str]) -> str:
    question = re.sub(r"\s+", " ", str(entry["question"])).strip()
    return f"{question} Answer: {str(entry['answer']).strip()}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(documents()), encoding="utf-8")
