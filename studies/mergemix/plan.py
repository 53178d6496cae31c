"""Which mixtures are trained, and for how long."""

from __future__ import annotations

from itertools import combinations, islice

from studies.mergemix.domains import CAPABILITIES, DOMAINS

SHORT, LONG = 125_000, 250_000
"""Tokens of an expert and of a mixture that checks the ranks; of the models that ratios are compared by."""
PART_TOKENS = 60_000
"""Tokens of the expert of a sub-domain."""
MANUAL = {"ja": 0.3, "math": 0.2, "code": 0.3, "problems": 0.2}
"""What one of us would have taken, written down before anything was measured."""
LEVELS = {name: {"points": 10} for name in DOMAINS}
"""Points of the search within a domain, which has two parts."""
TINY_LEVELS = {name: {"points": 5} for name in DOMAINS}
TINY_CHECKED = 3
"""So many of the mixtures that check the ranks are trained in a tiny world."""
TINY_SEARCH = {
    "points": 6,
    "repeats": 1,
    "verify": 1,
    "capabilities": {"all": [f"bits_{name}" for name in CAPABILITIES]},
}
"""Of a mixture run in a tiny world; surrogates of one capability take a fifth of the time."""
Shares = dict[str, float]


def uniform() -> Shares:
    """All alike."""
    return dict.fromkeys(DOMAINS, 1 / len(DOMAINS))


def checked(tokens: dict[str, int], *, most: int | None = None) -> dict[str, Shares]:
    """The mixtures that are trained to check the ranks: 13, none of a single domain, where merge and training agree.

    With `most`, only so many.

    >>> len(checked({"ja": 1, "math": 1, "code": 1, "problems": 2}))
    13
    """
    total = sum(tokens.values())
    found = {"uniform": uniform(), "tokens": {name: tokens[name] / total for name in DOMAINS}, "manual": MANUAL}
    for name in DOMAINS:
        found[f"mostly-{name}"] = {other: 0.55 if other == name else 0.15 for other in DOMAINS}
    for pair in combinations(DOMAINS, 2):
        found["-and-".join(pair)] = {other: 0.4 if other in pair else 0.1 for other in DOMAINS}
    return dict(islice(found.items(), most))
