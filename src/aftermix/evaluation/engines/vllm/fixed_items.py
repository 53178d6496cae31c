"""Eight fixed items by which an exchange of weights is checked: the engine against the Hugging Face engine.

Four are scored at their last position alone, after a context of more than a block of vLLM's cache: a context that is
kept from earlier weights shows there. Four are scored over several tokens, which vLLM reads anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aftermix.errors import EngineFaultError, EvaluationError
from aftermix.evaluation.engines.prefix_tree import Pair

TEXTS = (
    "The river rises in the hills, runs past three old mills and reaches the sea beside the harbour. ",
    "Seven plus five is twelve; twelve minus four is eight; eight divided by two is four. ",
    "def area(width, height):\n    return width * height\n\nprint(area(3, 4))\n",
    "Question: which of these floats on water? Answer: a piece of dry wood. ",
    "In 1969 two people walked on the Moon, and some six hundred million watched them. ",
    "If every number of a list is even, then their sum is even, too. ",
    "Warm the milk, stir in the flour, add two eggs and a pinch of salt, and wait. ",
    "Le chat dort sur la chaise; der Hund schläft im Garten; el pájaro canta. ",
)
SCORED = 6
"""Tokens that are scored of an item of several."""
SHORT = 16
"""Tokens before these, at least."""
TIMES, LEAST = 5.0, 0.02
"""Limit of the difference a token: so many times that of the start, and at least so many nats."""
MOST_AT_START = 0.1
"""Difference a token, in nats, beyond which the two engines run different models."""


def build_fixed_items(tokenizer: Any, *, block: int, max_length: int) -> list[Pair]:
    """Contexts and continuations in tokens; where one token is scored, after more than a `block` of the cache, if the
    model is long enough.
    """
    pairs: list[Pair] = []
    for number, text in enumerate(TEXTS):
        scored = 1 if number % 2 == 0 else SCORED
        wanted = (block if scored == 1 else SHORT) + 3 + number
        length = max(1, min(wanted, max_length - SCORED))
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
        repeated = (tokens * (1 + (length + scored) // len(tokens)))[: length + scored]
        pairs.append((repeated[:length], repeated[length:]))
    return pairs


@dataclass(frozen=True)
class ExchangeCheck:
    """The check after every exchange, with the limit that was found at the start."""

    engine: str
    """Name and version."""
    at_start: float
    """Largest difference a token of an item, in nats, with the base's weights."""

    @staticmethod
    def calibrate(
        engine: str, items: Sequence[Pair], found: Sequence[float], reference: Sequence[float]
    ) -> ExchangeCheck:
        """Take the differences at the start. Raises :class:`EvaluationError` where they are those of two models."""
        difference = find_difference(items, found, reference)
        if not difference <= MOST_AT_START:
            what = f"{difference:.3g} nats a token on fixed items with the base's weights"
            text = f"and the Hugging Face engine differ by {what}"
            raise EvaluationError(engine, text, "Use `engine: hf` for this model.")
        return ExchangeCheck(engine, difference)

    @property
    def limit(self) -> float:
        """Largest difference a token that is taken, in nats.

        >>> ExchangeCheck("vllm 0.32.0", 0.003).limit, ExchangeCheck("vllm 0.32.0", 0.01).limit
        (0.02, 0.05)
        """
        return max(TIMES * self.at_start, LEAST)

    def refuse_other(self, items: Sequence[Pair], found: Sequence[float], reference: Sequence[float]) -> float:
        """The largest difference a token of an item. Raises :class:`EngineFaultError` where it is beyond the limit."""
        difference = find_difference(items, found, reference)
        if not difference <= self.limit:
            text = (
                f"gives fixed items log-likelihoods that differ by {difference:.3g} nats a token from those of the "
                f"Hugging Face engine with the same weights (at the start {self.at_start:.2g}, limit {self.limit:.2g})"
            )
            remedy = "It does not hold the weights that it was handed: use `engine: hf`, and report this version."
            raise EngineFaultError(self.engine, text, remedy)
        return difference


def find_difference(items: Sequence[Pair], found: Sequence[float], reference: Sequence[float]) -> float:
    """Largest difference of two log-likelihoods of an item, by its number of scored tokens; NaN if one is no number."""
    differences = [
        abs(ours - theirs) / len(continuation)
        for (_, continuation), ours, theirs in zip(items, found, reference, strict=True)
    ]
    return max(differences) if all(each == each for each in differences) else float("nan")
