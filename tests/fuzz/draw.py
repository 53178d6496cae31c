"""Bytes read as choices, so that a fuzzer of bytes and Hypothesis explore structured input alike."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

NUMBERS: tuple[Any, ...] = (
    *(0, 1, 2, 3, 7, 8, 16, -1, -8, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30),
    *(0.5, -0.0, 1.5, 1e308, -1e308, math.nan, math.inf, -math.inf),
)
TEXTS = ("", "0", "true", "F32", "BF16", "model", "weight", "\x00", "\x1b[2J", "\ud800", "‮txt", "a" * 300, "../x", "~")
DEEP = 50


class Draw:
    """Choices taken from `data` one after another; zeros when it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        """The next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, bound: int) -> int:
        """A number in [0, bound), bound <= 256."""
        return self.byte() % bound

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`."""
        return options[self.below(len(options))]

    def rarely(self) -> bool:
        """True once in eight."""
        return self.byte() % 8 == 7

    def rest(self) -> bytes:
        """All that is left."""
        left, self._at = self._data[self._at :], len(self._data)
        return left

    def value(self, depth: int = 0) -> Any:
        """Any JSON value, hostile ones among them."""
        kind = self.below(8 if depth < 3 else 4)
        if kind == 0:
            return self.pick(NUMBERS)
        if kind == 1:
            return self.pick(TEXTS)
        if kind == 2:
            return self.pick((None, True, False))
        if kind == 3:
            return self.byte() - 128
        if kind == 4:
            return nested(DEEP + 8 * self.byte(), self.pick(("list", "dict")))
        if kind == 5:
            return [self.value(depth + 1) for _ in range(self.below(4))]
        return {self.pick(TEXTS): self.value(depth + 1) for _ in range(self.below(4))}

    def number_or(self, sound: T) -> Any:
        """`sound`, rarely a hostile number, more rarely anything."""
        if not self.rarely():
            return sound
        return self.value() if self.rarely() else self.pick(NUMBERS)

    def damaged(self, content: bytes) -> bytes:
        """`content`, rarely cut off or with some of its bytes replaced."""
        if not self.rarely():
            return content
        if self.rarely():
            return content[: self.byte() * len(content) // 256]
        edited = bytearray(content)
        for _ in range(1 + self.below(4)):
            if edited:
                edited[(self.byte() * 256 + self.byte()) % len(edited)] = self.byte()
        return bytes(edited)


def nested(depth: int, kind: str) -> str:
    """A text for which `as_json` writes lists in lists or mappings in mappings, deeper than any writer goes."""
    return f"nested {depth} {kind}"


def as_json(value: Any, *, deepest: int = 10_000) -> bytes:
    """`value` as JSON with NaN, Infinity and lone surrogates written as Python's reader takes them."""

    def written_out(nesting: re.Match[str]) -> str:
        depth = min(int(nesting[1]), deepest)
        start, end = ("[", "]") if nesting[2] == "list" else ('{"a":', "}")
        return start * depth + "0" + end * depth

    return re.sub(r'"nested (\d+) (list|dict)"', written_out, json.dumps(value)).encode()
