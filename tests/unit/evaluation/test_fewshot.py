"""Examples are never scored items."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.errors import EvaluationError
from aftermix.evaluation.fewshot import ExamplePool, choose_examples


def documents(*names: str) -> list[dict[str, Any]]:
    return [{"q": name} for name in names]


def pool_of(
    pool: list[Any], scored: list[Any], *, shots: int = 2, seed: int = 0, in_order: bool = False
) -> ExamplePool:
    return choose_examples(pool, scored, shots=shots, task="t", seed=seed, in_order=in_order)


def test_a_pool_of_its_own_stays_as_it_is() -> None:
    pool = documents("x", "y")
    assert pool_of(pool, documents("a", "b")) == ExamplePool(pool, frozenset())


def test_examples_that_are_scored_are_dropped_where_enough_others_are_left() -> None:
    made = pool_of(documents("a", "x", "y", "z"), documents("a", "b"))
    assert made == ExamplePool(documents("x", "y", "z"), frozenset())


@given(count=st.integers(4, 200), shots=st.integers(1, 3), seed=st.integers(0, 3))
def test_a_shared_split_gives_up_a_tenth_of_its_documents(count: int, shots: int, seed: int) -> None:
    scored = documents(*map(str, range(count)))
    made = pool_of(scored, scored, shots=shots, seed=seed)
    assert len(made.reserved) == len(made.examples) == max(shots + 1, min(64, count // 10))
    assert made.examples == [scored[number] for number in sorted(made.reserved)]
    assert made == pool_of(scored, scored, shots=shots, seed=seed)


def test_an_ordered_sampler_keeps_the_first_documents() -> None:
    scored = documents(*map(str, range(20)))
    assert pool_of(scored, scored, shots=3, in_order=True).reserved == {0, 1, 2, 3}


def test_copies_of_a_reserved_document_are_not_scored_either() -> None:
    scored = documents("a", "b", "c", "a", "d")
    assert pool_of(scored, scored, shots=1, in_order=True).reserved == {0, 1, 3}


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(EvaluationError) as error:
        pool_of(documents("x"), documents("a", "b", "c"), shots=5)
    assert str(error.value) == (
        "task 't': asked for 5 few-shot examples, but it has 1 to draw from. Lower `num_fewshot`."
    )
