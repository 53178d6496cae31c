"""A table of trained mixtures, anybody's: a row a run, its shares and what it scored.

Columns `share.NAME` are shares of domains, `score.NAME` scores of which higher is better, `loss.NAME` losses, which are
scores with the other sign. Others are left alone. A run that had none of a domain's data, or was made before there was
the domain, may have an empty cell: it lies on the face where that share is 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aftermix.errors import MixtureError
from aftermix.mixture.simplex import Floats, check_simplex

# N runs, K domains, T columns of scores

SHARE, SCORE, LOSS = "share.", "score.", "loss."
COLUMNS = f"`{SHARE}NAME` and `{SCORE}NAME` or `{LOSS}NAME`"


@dataclass(frozen=True)
class RunTable:
    """Trained mixtures as surrogates learn from them."""

    domains: tuple[str, ...]
    shares_NK: Floats
    scores: tuple[str, ...]
    scores_NT: Floats
    """Losses with their sign changed: higher is better."""
    losses: frozenset[str]
    """Scores that the table has as losses."""
    others: tuple[str, ...]
    """Columns that are neither."""
    empty: Mapping[str, int]
    """Runs with an empty cell by domain, of those that have one: a share of 0."""

    @classmethod
    def parse(cls, text: str, *, where: str) -> RunTable:
        """The table of a CSV with a header.

        Raises :class:`MixtureError` naming the line of `where`: for a table without shares or scores, a column that
        stands twice, cells that are no finite numbers, shares that are negative or do not sum to 1, and a domain of
        which no run had anything.
        """
        rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
        header = [cell.strip().removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") for cell in rows[0]] if rows else []
        _refuse_header(header, where)
        for number, row in enumerate(rows[1:], 2):
            if len(row) != len(header):
                found = f"expected {len(header)} cells as in the header, found {len(row)}"
                raise MixtureError(f"{where}, line {number}", found, "Give every run a value in every column.")

        share_names, score_names = _list_names(header, SHARE), _list_scores(header)
        share_columns = [header.index(SHARE + name) for name in share_names]
        score_columns = [column for column, head in enumerate(header) if head.startswith((SCORE, LOSS))]
        signs_T = np.array([-1.0 if header[column].startswith(LOSS) else 1.0 for column in score_columns])
        counts = {name: _count_empty(rows[1:], column) for name, column in zip(share_names, share_columns, strict=True)}
        filled = [[cell if cell.strip() else "0" for cell in row] for row in rows[1:]]
        shares_NK = check_simplex(_read_numbers(filled, share_columns, header, where), where=where)
        _refuse_unseen(share_names, shares_NK, where)
        return cls(
            domains=share_names,
            shares_NK=shares_NK,
            scores=score_names,
            scores_NT=_read_numbers(rows[1:], score_columns, header, where) * signs_T,
            losses=frozenset(_list_names(header, LOSS)),
            empty={name: count for name, count in counts.items() if count},
            others=tuple(head for head in header if head and not head.startswith((SHARE, SCORE, LOSS))),
        )


def _refuse_header(header: Sequence[str], where: str) -> None:
    if not _list_names(header, SHARE) or not _list_scores(header):
        found = f"expected columns {COLUMNS}, found {', '.join(header) or 'an empty file'}"
        raise MixtureError(where, found, "Name the columns so in its first line.")
    for names in (_list_names(header, SHARE), _list_scores(header)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise MixtureError(where, f"has two columns of '{twice[0]}'", "Keep one: a score, or a loss.")


def _refuse_unseen(domains: Sequence[str], shares_NK: Floats, where: str) -> None:
    """No run tells anything of a domain that none has trained on."""
    unseen = [name for name, column_N in zip(domains, shares_NK.T, strict=True) if not column_N.any()]
    if unseen:
        found = f"no run has a share of '{unseen[0]}', so that nothing is known of it"
        raise MixtureError(f"{where}, {SHARE}{unseen[0]}", found, "Add runs that have some, or leave the column out.")


def _count_empty(rows: Sequence[Sequence[str]], column: int) -> int:
    return sum(not row[column].strip() for row in rows)


def _read_numbers(rows: Sequence[Sequence[str]], columns: Sequence[int], header: Sequence[str], where: str) -> Floats:
    if not rows:
        raise MixtureError(where, "expected a line for each run, found a header alone", "Add the runs.")
    table = np.empty((len(rows), len(columns)))
    for number, row in enumerate(rows):
        for place, column in enumerate(columns):
            try:
                table[number, place] = float(row[column])
            except ValueError:
                table[number, place] = np.nan
            if not np.isfinite(table[number, place]):
                found = f"expected a finite number, found '{row[column].strip()}'"
                raise MixtureError(f"{where}, line {number + 2}, {header[column]}", found, "Leave the run out.")
    return table


def _list_scores(header: Sequence[str]) -> tuple[str, ...]:
    prefixes = (SCORE, LOSS)
    return tuple(head.partition(".")[2] for head in header if head.startswith(prefixes) and head not in prefixes)


def _list_names(header: Sequence[str], prefix: str) -> tuple[str, ...]:
    return tuple(head.removeprefix(prefix) for head in header if head.startswith(prefix) and head != prefix)
