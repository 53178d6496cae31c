"""Result of the run of a tree of domains: shares in each group and of the whole, and the search behind each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aftermix.report.number_format import format_count, format_percent
from aftermix.report.sections.mixture import MixtureSection, build_mixture_section, compose_tree_orders
from aftermix.runs.json_record import read_record
from aftermix.runs.mixture_records import SearchedLevelRecord, TreeDesignRecord, TreeGroupRecord, TreeRecord
from aftermix.runs.reader import locate_level, read_design
from aftermix.runs.records import BEST_FILE


@dataclass(frozen=True)
class TreeRow:
    """A member of a group, with what is below it in the rows that follow."""

    name: str
    depth: int
    share: str
    """In its group."""
    interval: str
    whole: str


@dataclass(frozen=True)
class LevelSection:
    """The search in one group; `tables` is None where it decided nothing."""

    name: str
    lead: str
    tables: MixtureSection | None


@dataclass(frozen=True)
class TreeSection:
    """The section's tables, as texts."""

    lead: str
    rows: tuple[TreeRow, ...]
    orders: str
    """On ratios of first order, and how far the second goes; empty where there is nothing to say."""
    levels: tuple[LevelSection, ...]


def count_searched_groups(run: Path) -> tuple[int, int] | None:
    """Count of the tree's groups that have been searched, and of all; None for the run of no tree."""
    design = read_design(run)
    if not isinstance(design, TreeDesignRecord):
        return None
    return sum((locate_level(run, name) / BEST_FILE).is_file() for name in design.levels), len(design.levels)


def build_tree_section(run: Path, record: TreeRecord) -> TreeSection:
    """The section on the finished run of a tree in `run`, whose groups have results of their own."""
    down = record.direction == "top_down"
    order = "Top down: the whole first" if down else "Bottom up: the lowest groups first"
    groups = format_count(len(_list_groups(record.tree)), "group")
    return TreeSection(
        lead=f"{order}, {groups}. Ratios are products down the tree.",
        rows=tuple(list_tree_rows(record.tree)),
        orders=compose_tree_orders(record),
        levels=tuple(_build_level_section(run, group) for group in _list_groups(record.tree)),
    )


def list_tree_rows(group: TreeGroupRecord, depth: int = 0) -> Iterator[TreeRow]:
    """One row for each member, those of a group below it."""
    below = {member.name: member for member in group.groups}
    for name, share in group.shares.items():
        ends = (group.share_intervals or {}).get(name)
        interval = " to ".join(map(format_percent, ends)) if ends else ""
        yield TreeRow(name, depth, format_percent(share), interval, format_percent(share * group.share))
        if name in below:
            yield from list_tree_rows(below[name], depth + 1)


def list_level_notes(group: TreeGroupRecord) -> Iterator[str]:
    """Reasons why groups keep the shares that they had at first, a sentence each."""
    for member in _list_groups(group):
        if member.note:
            yield (
                f"'{member.name}' {member.note}."
                if member.note.startswith("has ")
                else f"'{member.name}': {member.note}."
            )


def _list_groups(group: TreeGroupRecord) -> list[TreeGroupRecord]:
    return [group, *(member for below in group.groups for member in _list_groups(below))]


def _build_level_section(run: Path, group: TreeGroupRecord) -> LevelSection:
    measured = format_count(group.measured, "point")
    if group.note is not None:
        return LevelSection(group.name, f"{measured}. Its shares are those it had at first: {group.note}.", None)
    section = build_mixture_section(read_record(locate_level(run, group.name) / BEST_FILE, SearchedLevelRecord))
    return LevelSection(group.name, f"{measured}. {section.lead if section else ''}", section)
