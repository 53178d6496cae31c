"""Tables of trained runs: what is read, and each refusal by its text."""

from __future__ import annotations

import numpy as np
import pytest

from aftermix.errors import MixtureError
from aftermix.mixture.surrogates.run_table import RunTable

TABLE = """index,share.ja,share.math,loss.en,score.code, note
1,0.25,0.75,2.5,0.4,first
2,1.0,0.0,3.5,0.1,

3,0.333,0.666,2.0,0.2,third
"""


def test_shares_are_divided_by_their_sum_and_losses_change_their_sign() -> None:
    found = RunTable.parse(TABLE, where="runs.csv")
    assert (found.domains, found.scores) == (("ja", "math"), ("en", "code"))
    assert (found.losses, found.others) == (frozenset({"en"}), ("index", "note"))
    assert found.scores_NT.tolist() == [[-2.5, 0.4], [-3.5, 0.1], [-2.0, 0.2]]
    assert found.shares_NK == pytest.approx(np.array([[0.25, 0.75], [1, 0], [1 / 3, 2 / 3]]), abs=1e-9)


def test_the_mark_that_spreadsheets_put_in_front_is_no_part_of_a_name() -> None:
    text = "\N{ZERO WIDTH NO-BREAK SPACE}share.a,share.b,score.c\n0.5,0.5,1\n"
    assert RunTable.parse(text, where="runs.csv").domains == ("a", "b")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found an empty file"),
        ("a,b\n1,2\n", r"expected columns `share.NAME` and `score.NAME` or `loss.NAME`, found a, b"),
        ("share.a,share.b\n0.5,0.5\n", "found share.a, share.b"),
        ("share.a,share.a,score.c\n0.5,0.5,1\n", "has two columns of 'a'"),
        ("share.a,share.b,score.c,loss.c\n0.5,0.5,1,2\n", "has two columns of 'c'"),
        ("share.a,share.b,score.c\n", "expected a line for each run, found a header alone"),
        ("share.a,share.b,score.c\n0.5,0.5\n", "line 2: expected 3 cells as in the header, found 2"),
        ("share.a,share.b,score.c\n0.5,0.5,nan\n", r"line 2, score.c: expected a finite number, found 'nan'"),
        (
            "share.a,share.b,score.c\n1,0,1\n0.5,,1\n",
            "row 1: expected shares of at least 0 that sum to 1",
        ),
        ("share.a,share.b,score.c\n0.5,0.8,1\n", "shares of at least 0 that sum to 1, found a sum of 1.3"),
        ("share.a,share.b,score.c\n1.2,-0.2,1\n", "a lowest share of -0.2"),
    ],
)
def test_what_is_no_table_of_runs_is_refused_by_its_line(text: str, told: str) -> None:
    with pytest.raises(MixtureError, match=told) as caught:
        RunTable.parse(text, where="runs.csv")
    assert "runs.csv" in str(caught.value)
