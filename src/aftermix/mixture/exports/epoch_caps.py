"""Sharing of a budget of tokens when no domain may be repeated more often than a cap.

A domain with `t` tokens gives at most `E t` of a budget of `B`, so its share is at most `c = E t / B`. Shares are
`min(c_i, lambda r_i)`, with the one lambda for which they add up to 1: what a cap cuts off goes to the others in
proportion to their ratios `r`. Source: the repetition caps of Olmix; docs/mixture.md. All shares are of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aftermix.errors import MixtureError
from aftermix.mixture.exports.domain_data import DomainData

ROUNDING = 1e-9


@dataclass(frozen=True)
class DomainAllotment:
    """Part of one domain in a budget."""

    wanted: float
    """The ratio asked for."""
    ratio: float
    """The share of the tokens that it really gives."""
    tokens: int
    examples: float
    """Examples of mean length that hold these tokens."""
    epochs: float


def cap_shares(ratios: Mapping[str, float], most: Mapping[str, float]) -> dict[str, float]:
    """`min(most_i, lambda ratio_i)` with lambda such that they add up to 1. Ratios are above 0.

    Raises `ValueError` when the caps add up to less than 1.

    >>> cap_shares({"ja": 0.5, "math": 0.25, "code": 0.25}, {"ja": 0.2, "math": 1.0, "code": 1.0})
    {'ja': 0.2, 'math': 0.4, 'code': 0.4}
    """
    if math.fsum(most[name] for name in ratios) < 1 - ROUNDING:
        raise ValueError("the caps add up to less than 1")

    shares: dict[str, float] = {}
    while True:
        free = [name for name in ratios if name not in shares]
        left = 1 - math.fsum(shares.values())
        total = math.fsum(ratios[name] for name in free)
        over = [name for name in free if ratios[name] * left / total > most[name]]
        if not over or len(over) == len(free):
            break
        shares.update({name: most[name] for name in over})

    shares.update({name: ratios[name] * left / total for name in free})
    return {name: shares[name] for name in ratios}


def allot(
    ratios: Mapping[str, float], data: Mapping[str, DomainData], *, budget_tokens: int, max_epochs: float
) -> dict[str, DomainAllotment]:
    """Share `budget_tokens` out among the domains. Ratios are above 0 and add up to 1.

    Raises :class:`MixtureError` when all data, repeated `max_epochs` times, does not make the budget.
    """
    most = {name: max_epochs * data[name].tokens / budget_tokens for name in ratios}
    try:
        shares = cap_shares(ratios, most)
    except ValueError as error:
        held = sum(data[name].tokens for name in ratios)
        found = (
            f"a budget of {budget_tokens:,} tokens needs more than the {held:,} tokens of "
            f"{', '.join(ratios)} give in {max_epochs:g} epochs, which are {int(held * max_epochs):,}"
        )
        raise MixtureError("tokens", found, "Lower the budget, raise --max-epochs, or bring more data.") from error
    return {name: _allot_domain(ratios[name], shares[name], data[name], budget_tokens) for name in ratios}


def count_unrepeated_tokens(ratios: Mapping[str, float], data: Mapping[str, DomainData]) -> int:
    """The largest budget at which `ratios` repeat no domain.

    >>> held = {"ja": DomainData(2, 90, (0, 90)), "math": DomainData(1, 30, (0, 30))}
    >>> count_unrepeated_tokens({"ja": 0.8, "math": 0.2}, held)
    112
    """
    # Against the last place: 0.2 * 150 tokens may need 30.000000000000004.
    return math.floor(min(data[name].tokens / ratio for name, ratio in ratios.items()) * (1 + ROUNDING))


def _allot_domain(wanted: float, share: float, data: DomainData, budget_tokens: int) -> DomainAllotment:
    tokens = share * budget_tokens
    return DomainAllotment(wanted, share, round(tokens), tokens / data.mean_tokens, tokens / data.tokens)
