"""Items in order, cut into parts; those of equal rows in one part, across tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aftermix.config import Split

SPLITS: tuple[Split, ...] = ("search", "select", "test")
Parts = dict[str, list[str]]


def cut_disjoint(order: Sequence[str], counts: Mapping[str, int], names: Sequence[Split] = SPLITS) -> Parts:
    """The parts called `names` (all three), one after the other."""
    parts: Parts = {}
    for name in names:
        start = sum(map(len, parts.values()))
        parts[name] = list(order[start : start + counts[name]])
    return parts


def cut_first(order: Sequence[str], counts: Mapping[str, int]) -> Parts:
    """Search and select from the beginning, so that they overlap; test is what follows them."""
    start = max(counts["search"], counts["select"])
    return {
        "search": list(order[: counts["search"]]),
        "select": list(order[: counts["select"]]),
        "test": list(order[start : start + counts["test"]]),
    }


@dataclass(frozen=True)
class EqualItems:
    """Items that are of equal rows, and the part in which each of these rows stands so far."""

    groups: Mapping[str, bytes]
    """Item -> its row, for items whose row another has, too."""
    parts: dict[bytes, str] = field(default_factory=dict)
    """Row -> part, settled by the tasks before."""

    def cut_disjoint(self, order: Sequence[str], limits: Mapping[str, int], names: Sequence[Split] = SPLITS) -> Parts:
        """As :func:`cut_disjoint`, each group whole in the part where another task has it, else in the first with room.

        What has no room in its part is left out. Without groups the parts are those of :func:`cut_disjoint`.
        """
        members = self._list_members(order)
        parts: Parts = {name: [] for name in SPLITS}
        settled = {row: items for row, items in members.items() if row in self.parts}
        for row, items in settled.items():
            _place(items, parts, limits, [self.parts[row]])

        placed = {item for items in settled.values() for item in items}
        for item in order:
            if item not in placed:
                group = members[self.groups[item]] if item in self.groups else [item]
                placed.update(group)
                part = _place(group, parts, limits, names)
                if part is not None and item in self.groups:
                    self.parts[self.groups[item]] = part
        return parts

    def cut_first(self, order: Sequence[str], counts: Mapping[str, int], limits: Mapping[str, int]) -> Parts:
        """As :func:`cut_first`, without the items after the beginning whose row some task searches or selects on."""
        start = max(counts["search"], counts["select"])
        rest = [item for item in order[start:] if self.parts.get(self.groups.get(item, b"")) != "search"]
        return {**cut_first(order, counts), "test": rest[: limits["test"]]}

    def mark_early(self, items: Iterable[str]) -> None:
        """Remember the rows of `items` as searched on."""
        self.parts.update({self.groups[item]: "search" for item in items if item in self.groups})

    def _list_members(self, order: Sequence[str]) -> dict[bytes, list[str]]:
        members: dict[bytes, list[str]] = defaultdict(list)
        for item in order:
            if item in self.groups:
                members[self.groups[item]].append(item)
        return members


def _place(items: Sequence[str], parts: Parts, limits: Mapping[str, int], names: Sequence[str]) -> str | None:
    """Put `items` whole into the first of the parts `names` that has room; the part."""
    for name in names:
        if len(parts[name]) + len(items) <= limits[name]:
            parts[name] += items
            return name
    return None
