"""Cost of finding a mixture: tokens trained and evaluated, by method.

Cost of training `N * D * runs` (parameters, tokens of a run, runs), as in MergeMix's Table 6. A token that is trained
on takes `6 N` operations and one that is evaluated `2 N`, so evaluation counts a third; the paper leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aftermix.errors import MixtureError

MANUAL_RUNS = 10
"""Trainings of a tuning by hand, as in MergeMix, appendix C."""
EVALUATED = 2 / 6
"""Operations of an evaluated token over those of a trained one."""


@dataclass(frozen=True, kw_only=True)
class MethodCost:
    """Expense of one method until it names its ratios."""

    method: str
    parameters: float
    """`N`."""
    tokens: float
    """`D`, of one run."""
    runs: int
    evaluated_tokens: float = 0.0

    @property
    def trained_tokens(self) -> float:
        """`D * runs`."""
        return self.tokens * self.runs

    @property
    def training(self) -> float:
        """`N * D * runs`."""
        return self.parameters * self.trained_tokens

    @property
    def whole(self) -> float:
        """With evaluation: `N (D * runs + E / 3)`."""
        return self.training + self.parameters * self.evaluated_tokens * EVALUATED


def compare_costs(costs: Sequence[MethodCost], *, to: str) -> list[dict[str, Any]]:
    """Each cost with `relative` (training alone, as the paper counts) and `relative_whole`, over the method `to`.

    Raises :class:`MixtureError` when `to` is none of them.

    >>> paper = [MethodCost(method="manual", parameters=8e9, tokens=200e9, runs=10),
    ...          MethodCost(method="mergemix", parameters=8e9, tokens=5e9, runs=4)]
    >>> [row["relative"] for row in compare_costs(paper, to="mergemix")]
    [100.0, 1.0]
    """
    ours = next((cost for cost in costs if cost.method == to), None)
    if ours is None:
        known = ", ".join(cost.method for cost in costs)
        raise MixtureError("cost", f"expected one of {known}, found '{to}'", "Correct the name.")

    return [
        {
            "method": cost.method,
            "parameters": cost.parameters,
            "tokens": cost.tokens,
            "runs": cost.runs,
            "trained_tokens": cost.trained_tokens,
            "evaluated_tokens": cost.evaluated_tokens,
            "relative": _divide_costs(cost.training, ours.training),
            "relative_whole": _divide_costs(cost.whole, ours.whole),
        }
        for cost in costs
    ]


def list_mixture_costs(
    *,
    parameters: float,
    expert_tokens: Sequence[float],
    run_tokens: float,
    runs: int,
    proxy_tokens: float,
    evaluated: dict[str, float],
    manual_runs: int = MANUAL_RUNS,
) -> list[dict[str, Any]]:
    """The table of one mixture run: MergeMix, RegMix, DoReMi and tuning by hand on the same model.

    `expert_tokens` are those of each expert, `run_tokens` those of one training on a mixture, `runs` how many such
    trainings RegMix learns from, `proxy_tokens` those of DoReMi's reference and proxy together, `evaluated` the tokens
    that each method evaluates.
    """
    mean = sum(expert_tokens) / len(expert_tokens)
    plan = {
        "mergemix": (mean, len(expert_tokens)),
        "regmix": (run_tokens, runs),
        "doremi": (proxy_tokens / 2, 2),
        "manual": (run_tokens, manual_runs),
    }
    costs = [
        MethodCost(method=name, parameters=parameters, tokens=tokens, runs=n, evaluated_tokens=evaluated.get(name, 0.0))
        for name, (tokens, n) in plan.items()
    ]
    return compare_costs(costs, to="mergemix")


def _divide_costs(cost: float, ours: float) -> float | None:
    return round(cost / ours, 6) if ours else None
