"""Mixtures: shares in tokens at every point of the run, and what each domain really gave."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import TrainingError
from aftermix.training.data.encoding import EncodedExample
from aftermix.training.data.mixture import check_ratios, mix_streams, order_domains
from aftermix.training.data.packing import CutStream, SequenceStream, pack_stream
from aftermix.training.data.packing_whole import WholeStream
from aftermix.training.data.token_store import TokenStore

CONTEXT = 8


def store_of(token: int, lengths: list[int], *, answered: bool = False) -> TokenStore:
    """Documents of one token, so that a row says whose it is."""
    encoded = [EncodedExample(np.full(n, token, np.int32), np.ones(n, np.bool_) if answered else None) for n in lengths]
    return TokenStore.collect(encoded, characters=lengths)


def streams_of(*sizes: int) -> dict[str, SequenceStream]:
    return {f"d{at}": CutStream(store_of(at, [5] * size), CONTEXT, seed=0) for at, size in enumerate(sizes)}


PARTS = st.lists(st.integers(1, 1000), min_size=1, max_size=9)


@settings(max_examples=150)
@given(parts=PARTS, sequences=st.integers(1, 300), seed=st.integers(0, 3))
def test_no_domain_is_a_whole_sequence_off_its_share_at_any_point(parts: list[int], sequences: int, seed: int) -> None:
    exact = {f"d{at}": Fraction(part, sum(parts)) for at, part in enumerate(parts)}
    ratios = {name: float(ratio) for name, ratio in exact.items()}
    order = order_domains(ratios, lambda *_: 7, tokens=7 * sequences, seed=seed)
    assert len(order) == sequences
    count = dict.fromkeys(ratios, 0)
    for so_far, name in enumerate(order, 1):
        count[name] += 1
        assert all(abs(count[name] - exact[name] * so_far) < 1 + Fraction(1, 10**6) for name in ratios)


@settings(max_examples=60)
@given(parts=PARTS, lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20), tokens=st.integers(1, 2000))
def test_sequences_of_many_lengths_keep_the_shares_too(parts: list[int], lengths: list[int], tokens: int) -> None:
    ratios = {f"d{at}": part / sum(parts) for at, part in enumerate(parts)}

    def length(name: str, index: int) -> int:
        return lengths[(index + len(name)) % len(lengths)]

    order = order_domains(ratios, length, tokens=tokens, seed=0)
    count, given = dict.fromkeys(ratios, 0), dict.fromkeys(ratios, 0)
    for name in order:
        assert sum(given.values()) < tokens
        given[name] += length(name, count[name])
        count[name] += 1
        total = sum(given.values())
        assert all(abs(given[name] - ratios[name] * total) <= 2 * max(lengths) for name in ratios)
    assert sum(given.values()) >= tokens


def test_the_seed_decides_ties_and_nothing_else_does() -> None:
    ratios = {"a": 0.25, "b": 0.25, "c": 0.5}
    orders = {seed: order_domains(ratios, lambda *_: 4, tokens=64, seed=seed) for seed in range(8)}
    assert len({tuple(order) for order in orders.values()}) > 1
    backwards = dict(reversed(ratios.items()))
    assert all(order_domains(backwards, lambda *_: 4, tokens=64, seed=seed) == order for seed, order in orders.items())
    assert all(sorted(order[:4]) == ["a", "b", "c", "c"] for order in orders.values())


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    parts=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    tokens=st.integers(400, 900),
)
def test_every_token_of_a_domain_in_its_own_order_and_the_budget_met_exactly(
    sizes: list[int], parts: list[int], tokens: int
) -> None:
    streams = streams_of(*sizes)
    chosen = parts[: len(sizes)]
    ratios = {name: part / sum(chosen) for name, part in zip(streams, chosen, strict=True)}
    mixture = mix_streams(streams, ratios, tokens=tokens, seed=0, where="mixture")
    assert mixture.tokens == tokens == sum(len(row) for row in mixture)
    assert [len(row) for row in mixture] == mixture.lengths.tolist()
    given = mixture.given
    for at, (name, stream) in enumerate(streams.items()):
        rows = [row.ids.tolist() for row, domain in zip(mixture, mixture.domains, strict=True) if domain == name]
        alone = pack_stream(stream, tokens=given[name].tokens, where="-")
        assert rows == [row.ids.tolist() for row in alone]
        assert {token for row in rows for token in row} == {at}
        assert given[name].tokens == sum(map(len, rows))
        assert given[name].epochs == pytest.approx(given[name].tokens / (5 * sizes[at]))
        assert abs(given[name].tokens - ratios[name] * tokens) <= 2 * CONTEXT
    assert sum(each.share for each in given.values()) == pytest.approx(1)
    assert sum(each.sequences for each in given.values()) == len(mixture)


def test_whole_examples_beside_documents() -> None:
    chat = WholeStream(store_of(1, [3, 6, 4, 5, 2] * 4, answered=True), CONTEXT, seed=0)
    streams: dict[str, SequenceStream] = {"text": CutStream(store_of(0, [5] * 99), CONTEXT, seed=0), "chat": chat}
    mixture = mix_streams(streams, {"text": 0.7, "chat": 0.3}, tokens=400, seed=0, where="mixture")
    assert 400 <= mixture.tokens < 400 + CONTEXT
    assert mixture.given["chat"].share == pytest.approx(0.3, abs=0.03)
    assert mixture.given["chat"].epochs == pytest.approx(mixture.given["chat"].tokens / 80)
    assert mixture.highest == 1


def test_a_sequence_is_a_function_of_its_number() -> None:
    streams = streams_of(9, 4)
    make = lambda: mix_streams(streams, {"d0": 0.6, "d1": 0.4}, tokens=300, seed=0, where="-")  # noqa: E731
    whole, again = make(), make()
    assert again[20].ids.tolist() == whole[20].ids.tolist()
    with pytest.raises(IndexError):
        whole[len(whole)]


def test_ratios_are_checked() -> None:
    known = ["ja", "math"]
    assert check_ratios({"ja": 0.333, "math": 0.666}, known, where="-")["ja"] == pytest.approx(1 / 3)
    assert check_ratios({"ja": 1.0, "math": 0.0, "gone": 0.0}, known, where="-") == {"ja": 1.0}
    for ratios, message in [
        (
            {"ja": 0.5, "zh": 0.5},
            "mixture: there is no dataset 'zh'; known are: ja, math. Name its data under `train.s",
        ),
        ({"ja": 0.5, "math": 0.4}, "mixture: the ratios add up to 0.9. Make them add up to 1: divide each by 0.9."),
        ({"ja": 0.0}, "mixture: the ratios add up to 0. Make them add up to 1."),
        ({"ja": -0.5, "math": 1.5}, "mixture.ja: expected a share of 0 or more, found -0.5"),
        ({"ja": float("nan")}, "mixture.ja: expected a share of 0 or more, found nan"),
    ]:
        with pytest.raises(TrainingError) as caught:
            check_ratios(ratios, known, where="mixture")
        assert message in str(caught.value)


def test_a_domain_that_is_too_small_or_given_nothing() -> None:
    with pytest.raises(TrainingError, match=r"mixture.d1: holds 5 tokens, less than one sequence of 8"):
        mix_streams(streams_of(9, 1), {"d0": 0.5, "d1": 0.5}, tokens=80, seed=0, where="mixture")
    with pytest.raises(
        TrainingError, match=r"mixture.d1: a share of 0.001 of 10 sequences gives it none. Raise `tokens"
    ):
        mix_streams(streams_of(9, 9), {"d0": 0.999, "d1": 0.001}, tokens=80, seed=0, where="mixture")
