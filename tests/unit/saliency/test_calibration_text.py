"""Which texts are read, how long ones are cut, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aftermix.errors import ConfigError, ManyProblemsError
from aftermix.saliency.calibration_text import CalibrationSamples, EncodedText, choose_samples, settle_context

WORDS = st.lists(st.integers(1, 12), min_size=1, max_size=12)
OPTIONS = {"samples": 4, "context": 5, "long_texts": "cut", "seed": 0, "where": "vectors.a.calibration"}


def encode(texts: list[str]) -> list[list[int]]:
    """Words are token numbers."""
    return [[int(word) for word in text.split()] for text in texts]


def encode_texts(texts: list[str]) -> list[EncodedText]:
    return [EncodedText(row) for row in encode(texts)]


def choose(texts: list[str], **options: object) -> CalibrationSamples:
    return choose_samples(texts, encode_texts, **{**OPTIONS, **options})  # type: ignore[arg-type]


def numbered(lengths: list[int]) -> list[str]:
    """Texts of these lengths in which no two tokens are the same."""
    return [" ".join(str(1000 * number + place) for place in range(length)) for number, length in enumerate(lengths)]


@given(WORDS, st.integers(1, 20), st.integers(1, 6))
def test_long_texts_are_cut_without_losing_or_repeating_a_token(lengths: list[int], samples: int, context: int) -> None:
    texts = numbered(lengths)
    found = choose(texts, samples=10_000, context=context)
    assert sorted(token for row in found.sequences for token in row) == sorted(
        token for row in encode(texts) for token in row
    )
    assert max(map(len, found.sequences)) <= context
    few = choose(texts, samples=samples, context=context)
    assert len(few.sequences) == min(samples, len(found.sequences))
    assert set(few.sequences) <= set(found.sequences)
    # While there are texts enough, every sample is of a text of its own.
    assert len({row[0] // 1000 for row in few.sequences}) == min(samples, len(texts))


def test_the_choice_is_a_function_of_the_seed() -> None:
    texts = numbered([3] * 50)
    assert choose(texts).sequences == choose(texts).sequences
    assert choose(texts).sequences != choose(texts, seed=1).sequences
    assert choose(texts).sha256 != choose(texts, seed=1).sha256
    assert (choose(texts).texts, choose(texts).tokens) == (50, 12)


def test_batches_hold_one_length_each() -> None:
    samples = CalibrationSamples(((1, 2), (3,), (4, 5), (6, 7)), 4)
    batches = samples.build_batches(2, device=torch.device("cpu"))
    assert [batch.tolist() for batch in batches] == [[[1, 2], [4, 5]], [[6, 7]], [[3]]]


def test_the_context_is_1024_or_the_models_limit() -> None:
    assert settle_context(None, 4096, where="a") == 1024
    assert settle_context(None, 64, where="a") == 64
    assert settle_context(None, None, where="a") == 1024
    assert settle_context(32, 64, where="a") == 32
    message = "calibrate.context: expected at most the 64 positions of experts/a, found 65. Use at most 64."
    with pytest.raises(ConfigError) as raised:
        settle_context(65, 64, where="experts/a")
    assert str(raised.value) == message


def test_a_text_that_is_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ManyProblemsError) as raised:
        choose(["1 2 3", "1 2 3 4 5 6"], long_texts="refuse")
    assert str(raised.value) == (
        "vectors.a.calibration, text 2: expected at most 5 tokens, found 6. "
        "Shorten it, raise `calibrate.context`, or set `calibrate: {long_texts: cut}`."
    )
    with pytest.raises(ManyProblemsError, match="2 more of its texts are longer than 5 tokens"):
        choose(numbered([6] * 7), long_texts="refuse", samples=7)


def test_texts_without_a_token_are_refused() -> None:
    with pytest.raises(ManyProblemsError) as raised:
        choose(["1", "  "])
    assert str(raised.value) == (
        "vectors.a.calibration, text 2: expected a token at least, found none. Remove this text."
    )
    with pytest.raises(ConfigError, match="vectors.a.calibration: expected at least one text, found none"):
        choose([])


def test_samples_of_which_nothing_counts_are_refused() -> None:
    def mark(texts: list[str]) -> list[EncodedText]:
        return [EncodedText(row, [token == 2001 for token in row]) for row in encode(texts)]

    found = choose_samples(numbered([3] * 4), mark, **OPTIONS)  # type: ignore[arg-type]
    assert (found.tokens, found.counted_tokens) == (12, 1)
    masks = found.build_masks(3, device=torch.device("cpu"))
    assert masks is not None
    assert [mask.sum().item() for mask in masks] == [1, 0]
    with pytest.raises(ConfigError, match="none of the tokens that are read counts"):
        choose_samples(numbered([3]), mark, **OPTIONS)  # type: ignore[arg-type]
