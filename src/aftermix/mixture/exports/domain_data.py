"""Amount of data in a domain, in units that trainers count in: examples, tokens, and tokens of the first examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import MixtureError

TOOLS = "tools"
"""A conversation names tools."""
WITHOUT_TOOLS = "no tools"
TOOL_TURNS = "tool turns"
"""A message calls a tool, or is a tool's answer."""
TEXT_WITH_CALLS = "text with calls"
"""A message has words and calls a tool."""
ARGUMENTS_AS_TEXT = "arguments as text"
JSON_AS_TEXT = "JSON as text"
"""Messages, calls or tools that are JSON text."""
UNLIKE_KEYS = "unlike keys"
"""Arguments of calls, or tools, that have other keys than those of another record."""
NULLS = "nulls"
"""A null within the arguments of a call or within a tool."""
SYSTEM_COLUMN = "system column"
SYSTEM_GAP = "no system prompt"
"""A conversation that was counted without a prompt of the system, in data with a column of that name."""
SYSTEM_WITH_TOOLS = "system with tools"
"""A conversation with a prompt of the system and with tools."""
BARE_CALLS = "bare calls"
"""A call that names its function without the key `function`."""
BARE_TEXT = "bare arguments as text"
JOINED_ANSWERS = "answers in a row"
"""Answers of tools in a row, where the chat template writes no `</tool_response>` between them."""
DATES = "dates"
"""Values of one place in JSON lines that are all dates or times: tables hold them as such, not as text."""
NO_TURNS = "no turns"
"""A conversation in which user and assistant do not take turns, or the assistant is not the last."""
UNLIKE_FILES = "unlike files"
"""Files of one domain that differ in columns, or in what these hold."""
MESSAGE_KEY = "message key "
"""With the key's name: what a message holds beside its role, its words and its calls."""
IGNORED = "ignored "
"""With the name of a key of messages, or of the column of tools, that is ignored and that the template mentions."""
LOSS_KEYS = ("weight", "train", "training", "trainable", "loss", "loss_mask")
"""Keys of a message that say if the loss is on it, as training reads them."""

CURVE_STEPS = 256
"""Places at which the tokens of the first examples are kept; between two of them they are interpolated."""


@dataclass(frozen=True)
class DomainData:
    """Counts of the data of one domain."""

    examples: int
    """Records, empty ones among them: whoever draws records draws these too."""
    tokens: int
    curve: tuple[int, ...]
    """Tokens of the first `round(k n / m)` of the n examples, for k from 0 to m."""
    traits: Mapping[str, str] = field(default_factory=dict)
    """Findings that some trainer reads in another way, such as :data:`TOOLS`, each with the first place of it."""

    @property
    def mean_tokens(self) -> float:
        """Tokens per example."""
        return self.tokens / self.examples

    def tokens_of_first(self, examples: float) -> float:
        """Tokens of the first `examples`, in file order."""
        return float(np.interp(examples, self._places(), self.curve))

    def first_with(self, tokens: float) -> float:
        """Number of the first examples that hold `tokens`; the reverse of :meth:`tokens_of_first`."""
        return float(np.interp(tokens, self.curve, self._places()))

    def _places(self) -> NDArray[np.int64]:
        return _spread_places(self.examples, len(self.curve) - 1)

    def as_json(self) -> dict[str, Any]:
        """Plain values, which :func:`read_domain_data` reads back."""
        counts = {"examples": self.examples, "tokens": self.tokens, "curve": list(self.curve)}
        return counts | ({"traits": dict(self.traits)} if self.traits else {})


def count_domain(tokens_of_examples: Iterable[int], *, where: str) -> DomainData:
    """The counts of data whose examples have so many tokens each, in file order.

    Raises :class:`MixtureError` for data without a token.

    >>> count_domain([3, 0, 5, 2], where="ja").mean_tokens
    2.5
    """
    lengths = np.fromiter(tokens_of_examples, dtype=np.int64)
    total = int(lengths.sum())
    if not total:
        raise MixtureError(where, "its data holds no tokens", "Name data with text, or give it a ratio of 0.")
    summed = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    curve = summed[_spread_places(len(lengths), min(CURVE_STEPS, len(lengths)))]
    return DomainData(len(lengths), total, tuple(int(value) for value in curve))


def read_domain_data(value: Mapping[str, Any]) -> DomainData:
    """Read back :meth:`DomainData.as_json`. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    curve = tuple(int(entry) for entry in value["curve"])
    traits = {str(trait): str(place) for trait, place in value.get("traits", {}).items()}
    domain_data = DomainData(int(value["examples"]), int(value["tokens"]), curve, traits)
    if len(curve) < 2 or curve[-1] != domain_data.tokens or domain_data.examples < 1 or domain_data.tokens < 1:
        raise ValueError("no counts of a domain")
    return domain_data


def _spread_places(examples: int, steps: int) -> NDArray[np.int64]:
    return np.rint(np.linspace(0, examples, steps + 1)).astype(np.int64)
