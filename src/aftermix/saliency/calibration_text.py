"""From texts to samples: which texts an expert reads, as token numbers, in batches that need no padding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from aftermix.errors import ConfigError, Problem, refuse_if_any
from aftermix.seeds import generator

Encode = Callable[[list[str]], list[list[int]]]
"""Token numbers of each text, with the start token where the tokenizer sets one."""
DEFAULT_CONTEXT = 1024
LISTED = 5


@dataclass(frozen=True)
class CalibrationSamples:
    """Samples of text that one expert reads."""

    sequences: tuple[tuple[int, ...], ...]
    """In the order in which the texts stand."""
    texts: int
    """Texts that there were to choose from."""

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(map(len, self.sequences))

    @property
    def sha256(self) -> str:
        """Hash of the token numbers: what the model really reads."""
        return hashlib.sha256(repr(self.sequences).encode()).hexdigest()

    def build_batches(self, size: int, *, device: torch.device) -> list[torch.Tensor]:
        """Batches (B, T) of at most `size` sequences of one length, longest first."""
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for sequence in self.sequences:
            by_length.setdefault(len(sequence), []).append(sequence)
        return [
            torch.tensor(same[start : start + size], device=device)
            for _, same in sorted(by_length.items(), reverse=True)
            for start in range(0, len(same), size)
        ]


def settle_context(wanted: int | None, limit: int | None, *, where: str) -> int:
    """The longest sample: `wanted`, or 1024 or the model's `limit`, whichever is less.

    Raises :class:`ConfigError` when `wanted` is beyond the model.
    """
    if wanted is not None and limit is not None and wanted > limit:
        found = f"expected at most the {limit} positions of {where}, found {wanted}"
        raise ConfigError("calibrate.context", found, f"Use at most {limit}.")
    return wanted or min(DEFAULT_CONTEXT, limit or DEFAULT_CONTEXT)


def choose_samples(
    texts: Sequence[str],
    encode: Encode,
    *,
    samples: int,
    context: int,
    long_texts: Literal["refuse", "cut"],
    seed: int,
    where: str,
) -> CalibrationSamples:
    """At most `samples` texts, chosen by `seed`, as token numbers.

    The choice is a function of the seed and of how many texts there are. With `long_texts: cut` a text of more than
    `context` tokens becomes several samples, of which the last may be shorter; as long as there are texts enough, each
    gives one of its own, chosen by the seed. Raises :class:`ManyProblemsError` for texts without a token, and for
    texts that are longer than `context` and are not to be cut.
    """
    if not texts:
        raise ConfigError(where, "expected at least one text, found none", "Name a file or a task with text.")
    if not any(map(str.strip, texts)):
        raise ConfigError(where, "expected text, found nothing but white space", "Name a file or a task with text.")

    chosen = _draw_order(len(texts), seed, "texts")[:samples]
    encoded = dict(zip(chosen, encode([texts[number] for number in chosen]), strict=True))

    problems = [_explain_without_token(where, number) for number in sorted(encoded) if not encoded[number]]
    if long_texts == "refuse":
        longer = [number for number in sorted(encoded) if len(encoded[number]) > context]
        problems += [_explain_too_long(where, number, len(encoded[number]), context) for number in longer[:LISTED]]
        if len(longer) > LISTED:
            rest = Problem(where, f"{len(longer) - LISTED} more of its texts are longer than {context} tokens", CUT)
            problems.append(rest)
    refuse_if_any(problems)

    windows = {number: _cut_windows(encoded[number], context, seed, number) for number in chosen}
    places = _choose_windows(windows, chosen, samples)
    sequences = tuple(tuple(windows[number][place]) for number, place in sorted(places))
    return CalibrationSamples(sequences=sequences, texts=len(texts))


CUT = "Shorten it, raise `calibrate.context`, or set `calibrate: {long_texts: cut}`."


def _explain_without_token(where: str, number: int) -> Problem:
    return Problem(f"{where}, text {number + 1}", "expected a token at least, found none", "Remove this text.")


def _explain_too_long(where: str, number: int, tokens: int, context: int) -> Problem:
    return Problem(f"{where}, text {number + 1}", f"expected at most {context} tokens, found {tokens}", CUT)


def _cut_windows(tokens: list[int], context: int, seed: int, number: int) -> list[list[int]]:
    """`tokens` cut every `context`, in an order of their own."""
    cut = [tokens[start : start + context] for start in range(0, len(tokens), context)]
    return [cut[place] for place in _draw_order(len(cut), seed, "windows", number)]


def _choose_windows(windows: dict[int, list[list[int]]], chosen: list[int], samples: int) -> list[tuple[int, int]]:
    """(text, window): a window of every text, then a second one of those that have it, until there are enough."""
    rounds = max(map(len, windows.values()))
    places = [(number, turn) for turn in range(rounds) for number in chosen if turn < len(windows[number])]
    return places[:samples]


def _draw_order(count: int, seed: int, *key: str | int) -> list[int]:
    # Raw draws, not `permutation`, whose algorithm NumPy may change between releases.
    draws = generator(seed, "calibration", *key).bit_generator.random_raw(count)
    order: list[int] = np.argsort(draws, kind="stable").tolist()
    return order
