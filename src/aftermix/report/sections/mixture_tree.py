"""Result of the run of a tree of domains: shares in each group and of the whole, and the search behind each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aftermix.report import number_format as figures
from aftermix.report.sections.mixture import DESIGN, MixtureRecord, MixtureSection, UtilityRecord, mixture_section
from aftermix.runs.reader import read_record
from aftermix.runs.records import Finite, Interval, Record


class GroupRecord(Record):
    """A group of the tree, as `best.json` tells it."""

    name: str
    share: Finite
    """Of the whole."""
    shares: dict[str, Finite]
    share_intervals: dict[str, Interval] | None = None
    point: str | None = None
    """None: its search decided nothing, and `note` says why."""
    measured: int = 0
    note: str | None = None
    groups: tuple[GroupRecord, ...] = ()


class TreeRecord(Record):
    """Content of `best.json` that only the run of a tree has, beside a search's."""

    direction: str
    tree: GroupRecord
    utility: UtilityRecord


class _Design(Record):
    levels: tuple[str, ...] | None = None


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
    levels: tuple[LevelSection, ...]


def searched_groups(run: Path) -> tuple[int, int] | None:
    """Count of the tree's groups that have been searched, and of all; None for the run of no tree."""
    design = read_record(run / DESIGN, _Design)
    if design is None or design.levels is None:
        return None
    return sum((run / "levels" / name / "best.json").is_file() for name in design.levels), len(design.levels)


def read_tree(run: Path) -> TreeSection | None:
    """The section on the finished run of a tree; None for any other run."""
    if searched_groups(run) is None:
        return None
    record = read_record(run / "best.json", TreeRecord)
    if record is None:
        return None

    down = record.direction == "top_down"
    order = "Top down: the whole first" if down else "Bottom up: the lowest groups first"
    return TreeSection(
        lead=f"{order}, {figures.count(len(_groups(record.tree)), 'group')}. Ratios are products down the tree.",
        rows=tuple(tree_rows(record.tree)),
        levels=tuple(_level(run, group) for group in _groups(record.tree)),
    )


def tree_rows(group: GroupRecord, depth: int = 0) -> Iterator[TreeRow]:
    """One row for each member, those of a group below it."""
    below = {one.name: one for one in group.groups}
    for name, share in group.shares.items():
        ends = (group.share_intervals or {}).get(name)
        interval = " to ".join(map(figures.percent, ends)) if ends else ""
        yield TreeRow(name, depth, figures.percent(share), interval, figures.percent(share * group.share))
        if name in below:
            yield from tree_rows(below[name], depth + 1)


def level_notes(group: GroupRecord) -> Iterator[str]:
    """Reasons why groups keep the shares that they had at first, a sentence each."""
    for one in _groups(group):
        if one.note:
            yield f"'{one.name}' {one.note}." if one.note.startswith("has ") else f"'{one.name}': {one.note}."


def _groups(group: GroupRecord) -> list[GroupRecord]:
    return [group, *(one for below in group.groups for one in _groups(below))]


def _level(run: Path, group: GroupRecord) -> LevelSection:
    measured = figures.count(group.measured, "point")
    if group.note is not None:
        return LevelSection(group.name, f"{measured}. Its shares are those it had at first: {group.note}.", None)
    record = read_record(run / "levels" / group.name / "best.json", MixtureRecord)
    section = mixture_section(record)
    return LevelSection(group.name, f"{measured}. {section.lead if section else ''}", section)
