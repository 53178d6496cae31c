"""From merge weights to data mixtures: designs on the simplex, surrogates, utilities, optima, ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftermix.mixture.surrogates.surrogate import Surrogate

__all__ = ["Surrogate"]


def __getattr__(name: str) -> Any:
    """The surrogate at first use: whoever only reads ratios loads no LightGBM."""
    if name in __all__:
        from aftermix.mixture.surrogates import surrogate

        return getattr(surrogate, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
