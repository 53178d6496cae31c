"""A merge as words: its weights and its searched settings."""

from __future__ import annotations

from collections.abc import Mapping

from aftermix.report.number_format import format_setting, format_weight
from aftermix.runs.trials import Setting, quote_setting


def format_weights(weights: Mapping[str, float]) -> str:
    """`it 0.62, ja 0.20`, without the vectors at 0.

    >>> format_weights({"it": 0.62, "ja": 0.0})
    'it 0.62'
    """
    return ", ".join(f"{name} {format_weight(value)}" for name, value in weights.items() if value)


def format_point(weights: Mapping[str, float], settings: Mapping[str, Setting]) -> str:
    """`it 0.62, ja 0.20; density 0.3`

    >>> format_point({"it": 0.62}, {"density": 0.3, "order": ("ja", "it")})
    'it 0.62; density 0.3; order (ja, it)'
    """
    parts = [
        format_weights(weights),
        *(f"{quote_setting(name)} {format_setting(value)}" for name, value in settings.items()),
    ]
    return "; ".join(filter(None, parts))
