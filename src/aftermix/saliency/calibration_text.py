"""From texts to samples: which texts an expert reads, as token numbers, in batches that need no padding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch

from aftermix.errors import ConfigError, Problem, refuse_if_any
from aftermix.seeds import generator

Text = TypeVar("Text")
Encode = Callable[[list[Text]], list["EncodedText"]]
"""Token numbers of each text, with the start token where the tokenizer sets one."""
DEFAULT_CONTEXT = 1024
LISTED = 5


@dataclass(frozen=True)
class EncodedText:
    """One text as token numbers, and which of them count."""

    ids: Sequence[int]
    counted: Sequence[bool] | None = None
    """By token; None: all of them."""

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, stop: int) -> EncodedText:
        """Tokens `start` to `stop` (not included)."""
        counted = None if self.counted is None else self.counted[start:stop]
        return EncodedText(self.ids[start:stop], counted)


@dataclass(frozen=True)
class CalibrationSamples:
    """Samples of text that one expert reads."""

    sequences: tuple[tuple[int, ...], ...]
    """In the order in which the texts stand."""
    texts: int
    """Texts that there were to choose from."""
    counted: tuple[tuple[bool, ...], ...] | None = None
    """By token of each sequence, whether it counts; None: all of them."""

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(map(len, self.sequences))

    @property
    def counted_tokens(self) -> int:
        """Tokens of all sequences that count."""
        return self.tokens if self.counted is None else sum(map(sum, self.counted))

    @property
    def sha256(self) -> str:
        """Hash of the token numbers, what the model really reads, and of which of them count where not all do."""
        marks = "" if self.counted is None else repr(self.counted)
        return hashlib.sha256((repr(self.sequences) + marks).encode()).hexdigest()

    def build_batches(self, size: int, *, device: torch.device) -> list[torch.Tensor]:
        """Batches (B, T) of at most `size` sequences of one length, longest first."""
        return [
            torch.tensor([self.sequences[number] for number in batch], device=device)
            for batch in self._list_batches(size)
        ]

    def build_masks(self, size: int, *, device: torch.device) -> list[torch.Tensor] | None:
        """For each of :meth:`build_batches`, (B, T): true where a token counts; None where all count."""
        if self.counted is None:
            return None
        counted = self.counted
        return [
            torch.tensor([counted[number] for number in batch], device=device) for batch in self._list_batches(size)
        ]

    def _list_batches(self, size: int) -> list[list[int]]:
        """Numbers of the sequences of each batch."""
        by_length: dict[int, list[int]] = {}
        for number, sequence in enumerate(self.sequences):
            by_length.setdefault(len(sequence), []).append(number)
        return [
            same[start : start + size]
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
    texts: Sequence[Text],
    encode: Encode[Text],
    *,
    samples: int,
    context: int,
    long_texts: Literal["refuse", "cut"],
    seed: int,
    where: str,
) -> CalibrationSamples:
    """At most `samples` texts, chosen by `seed`, as token numbers; a text is a string or what else `encode` takes.

    The choice is a function of the seed and of how many texts there are. With `long_texts: cut` a text of more than
    `context` tokens becomes several samples, of which the last may be shorter; as long as there are texts enough, each
    gives one of its own, chosen by the seed. Raises :class:`ManyProblemsError` for texts without a token, and for
    texts that are longer than `context` and are not to be cut.
    """
    if not texts:
        raise ConfigError(where, "expected at least one text, found none", "Name a file or a task with text.")
    if not any(not isinstance(text, str) or text.strip() for text in texts):
        raise ConfigError(where, "expected text, found nothing but white space", "Name a file or a task with text.")

    chosen = _draw_order(len(texts), seed, "texts")[:samples]
    encoded = dict(zip(chosen, encode([texts[number] for number in chosen]), strict=True))

    problems = [_explain_without_token(where, number) for number in sorted(encoded) if not len(encoded[number])]
    if long_texts == "refuse":
        longer = [number for number in sorted(encoded) if len(encoded[number]) > context]
        problems += [_explain_too_long(where, number, len(encoded[number]), context) for number in longer[:LISTED]]
        if len(longer) > LISTED:
            rest = Problem(where, f"{len(longer) - LISTED} more of its texts are longer than {context} tokens", CUT)
            problems.append(rest)
    refuse_if_any(problems)

    windows = {number: _cut_windows(encoded[number], context, seed, number) for number in chosen}
    places = _choose_windows(windows, chosen, samples)
    taken = [windows[number][place] for number, place in sorted(places)]
    marked = [window.counted for window in taken if window.counted is not None]
    if marked and not any(map(any, marked)):
        found = "none of the tokens that are read counts"
        raise ConfigError(where, found, "Raise `calibrate.context`, or count `tokens: all`.")

    sequences = tuple(tuple(window.ids) for window in taken)
    counted = tuple(map(tuple, marked)) if marked else None
    return CalibrationSamples(sequences=sequences, texts=len(texts), counted=counted)


CUT = "Shorten it, raise `calibrate.context`, or set `calibrate: {long_texts: cut}`."


def _explain_without_token(where: str, number: int) -> Problem:
    return Problem(f"{where}, text {number + 1}", "expected a token at least, found none", "Remove this text.")


def _explain_too_long(where: str, number: int, tokens: int, context: int) -> Problem:
    return Problem(f"{where}, text {number + 1}", f"expected at most {context} tokens, found {tokens}", CUT)


def _cut_windows(text: EncodedText, context: int, seed: int, number: int) -> list[EncodedText]:
    """`text` cut every `context` tokens, in an order of their own."""
    cut = [text.cut(start, start + context) for start in range(0, len(text), context)]
    return [cut[place] for place in _draw_order(len(cut), seed, "windows", number)]


def _choose_windows(windows: dict[int, list[EncodedText]], chosen: list[int], samples: int) -> list[tuple[int, int]]:
    """(text, window): a window of every text, then a second one of those that have it, until there are enough."""
    rounds = max(map(len, windows.values()))
    places = [(number, turn) for turn in range(rounds) for number in chosen if turn < len(windows[number])]
    return places[:samples]


def _draw_order(count: int, seed: int, *key: str | int) -> list[int]:
    # Raw draws, not `permutation`, whose algorithm NumPy may change between releases.
    draws = generator(seed, "calibration", *key).bit_generator.random_raw(count)
    order: list[int] = np.argsort(draws, kind="stable").tolist()
    return order
