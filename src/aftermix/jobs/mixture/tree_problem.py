"""Tree of domains in a file: one mixture problem for each group, all checked before any work begins.

A group is searched like a mixture of its own whose domains are its members. What it measures hangs on shares that other
groups have by then: bottom up those of the groups below it, top down those of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aftermix.config import Config, LevelConfig, MixtureConfig
from aftermix.errors import AftermixError, Problem, refuse_if_any
from aftermix.jobs.mixture.baselines import BASE, LABELS, Compared
from aftermix.jobs.mixture.problem import TOKENS, UNIFORM, Setting
from aftermix.jobs.run_folder import BEST
from aftermix.mixture.bounds import Bounds
from aftermix.mixture.simplex import from_shares, named, share_of_tokens
from aftermix.mixture.tree import ROOT, WHERE, Embedding, Inner, Node, most, parse_tree, ratios, share_of, within

LEVELS = "levels"
"""Folder of the groups in a run's."""
POINTS_PER_MEMBER = 10
"""A group of few members needs fewer points than the section's; no group measures more."""
LEAST_CAPPED = 1e-6
"""Under smaller shares of the whole no cap on epochs binds."""
SHARED = ("mixture.capabilities", "mixture.toward")
"""Places in the file that speak of all groups at once."""


@dataclass(frozen=True)
class Levels:
    """The groups of a tree, checked."""

    config: Config
    root: Node
    start: Inner
    """By group, the shares of its members as long as nothing else is known: in proportion to tokens where those of all
    its experts are known, else equal; the nearest allowed ones."""

    @classmethod
    def of(cls, config: Config) -> Levels:
        """Raises :class:`ManyProblemsError` with every fault of the tree, or every fault of what is asked of it."""
        experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
        levels = cls(config, parse_tree(_asked(config).tree, experts), {})
        problems = [*levels._strangers(), *levels._faulty_priors(), *levels._faulty_caps()]
        refuse_if_any(problems or levels._faulty_levels())
        return cls(config, levels.root, levels._start())

    @property
    def asked(self) -> MixtureConfig:
        """The section."""
        return _asked(self.config)

    @property
    def experts(self) -> tuple[str, ...]:
        """All experts, in the order of the file."""
        return tuple(name for name, vector in self.config.vectors.items() if vector.role == "expert")

    @property
    def tokens(self) -> dict[str, int]:
        """By expert, where known."""
        return {name: t for name in self.experts if (t := self.config.vectors[name].tokens) is not None}

    @property
    def order(self) -> tuple[Node, ...]:
        """The groups in the order in which they are searched."""
        groups = self.root.groups()
        return groups if self.is_top_down else groups[::-1]

    @property
    def is_top_down(self) -> bool:
        """True if the whole is searched first, and measured at every group."""
        return self.asked.direction == "top_down"

    @property
    def first_setting(self) -> Setting:
        """That of the whole as long as nothing is known: its capabilities, instruction vectors and seed are all's."""
        return self.setting(self.root, self.start)

    def setting(self, group: Node, inner: Inner) -> Setting:
        """The problem of `group` when the shares `inner` are known.

        Raises :class:`AftermixError` for caps on epochs that leave its members no choice.
        """
        if self.is_top_down:
            embedding = Embedding.among_others(self.root, group, inner, self.experts)
            share = share_of(self.root, group.name, inner)
        else:
            embedding, share = Embedding.alone(group, inner, self.experts), 1.0

        return Setting.over(
            self.config,
            self._asked_of(group),
            tokens=self._tokens_of(group),
            embedding=embedding,
            most=self._most(group, share),
            # How far caps bind within a group is not known before its share is, so no file can be held against it.
            stray_priors=group is not self.root,
        )

    def planned(self) -> tuple[Setting, ...]:
        """The groups' problems in the order of the search, whatever shares are found on the way."""
        return tuple(self._alone(group) for group in self.order)

    def kept(self, group: Node, inner: Inner) -> dict[str, float]:
        """The shares that a group has without a search: its first ones, or the nearest that caps on epochs allow."""
        names, asked = [member.name for member in group.members], self._asked_of(group)
        share = share_of(self.root, group.name, inner) if self.is_top_down else 1.0

        caps = self._most(group, share)
        limit = 1.0 if caps else None
        bounds = Bounds.build(
            names, bounds=asked.bounds, fixed=asked.fixed, tokens=caps, budget_tokens=limit, max_epochs=limit
        )
        return _nearest(bounds, inner[group.name])

    def record(self) -> dict[str, Any]:
        """`design.json` of the run: points are those of the levels."""
        order = [group.name for group in self.order]
        empty: dict[str, Any] = {"domains": list(self.experts), "points": [], "repeats": []}
        return empty | {"tree": _plain(self.root), "direction": self.asked.direction, "levels": order}

    def facts(self) -> Iterator[str]:
        """A line for each group, in the order of the search."""
        for group in self.order:
            setting = self._alone(group)
            rounds = "".join(f", then {count}" for count in setting.mixture.rounds)
            members = ", ".join(f"{name} {share:.3g}" for name, share in self.start[group.name].items())
            first = f"; at first {members}" if self.is_top_down else f" of {', '.join(setting.domains)}"
            yield f"mixture group '{group.name}': {len(setting.design.kinds)} points{rounds}{first}"

    def compared(self, found: Mapping[str, float] | None = None) -> Iterator[Compared]:
        """Mixtures of all experts that need no search within groups, and the base; `root_shares` are the whole's.

        Top down, the whole as it is found with the groups at their first shares tells what the search in them adds.
        """
        weighed = self.first_setting.merge_of
        yield LABELS[UNIFORM], "mixture", weighed(dict.fromkeys(self.experts, 1 / len(self.experts)))
        if len(self.tokens) == len(self.experts):
            yield LABELS[TOKENS], "mixture", weighed(share_of_tokens(self.tokens))

        for name, shares in self.asked.priors.items():
            prior_L = from_shares(shares, self.experts, where=f"prior '{name}'")
            yield f"prior {name}", "mixture", weighed(named(prior_L, self.experts))

        if self.is_top_down and len(self.groups) > 1:
            inner = {**self.start, ROOT: found or self.start[ROOT]}
            yield "groups as at first", "mixture", weighed(ratios(self.root, inner))

        for name in self.experts:
            yield f"{name} alone", "expert", weighed({name: 1.0})
        yield BASE, BASE, None

    def consolidated(self, inner: Inner) -> Iterator[tuple[str, dict[str, float]]]:
        """By group below the whole, the weights of its consolidated expert: no other data, no instruction vector."""
        for group in self.root.groups()[1:]:
            shares = ratios(group, inner)
            yield group.name, {name: shares.get(name, 0.0) for name in self.config.vectors}

    def _asked_of(self, group: Node) -> MixtureConfig:
        """The section as it holds for one group."""
        asked, level = self.asked, self.asked.levels.get(group.name, LevelConfig())
        names = [member.name for member in group.members]
        priors = {name: shares for name, prior in asked.priors.items() if (shares := within(group, prior))}

        # A prior that gives a group nothing says nothing of the shares in it.
        free = asked.toward in asked.priors and asked.toward not in priors
        settled = {"toward": UNIFORM, "pull": 0.0} if free else {}
        settled |= {"budget_tokens": None, "max_epochs": None, "tree": None, "levels": {}, "experts": False}

        return asked.model_copy(
            update={
                "points": level.points or min(asked.points, POINTS_PER_MEMBER * len(names)),
                "rounds": asked.rounds if level.rounds is None else level.rounds,
                "utility": level.utility or asked.utility,
                "bounds": {name: asked.bounds[name] for name in names if name in asked.bounds},
                "fixed": {name: asked.fixed[name] for name in names if name in asked.fixed},
                "priors": priors,
            }
            | settled
        )

    def _tokens_of(self, group: Node) -> dict[str, int]:
        known = self.tokens
        return {
            member.name: sum(known[name] for name in member.experts)
            for member in group.members
            if all(name in known for name in member.experts)
        }

    def _start(self) -> dict[str, dict[str, float]]:
        found = {}
        for group in self.root.groups():
            names, tokens = [member.name for member in group.members], self._tokens_of(group)
            even = dict.fromkeys(names, 1 / len(names))
            shares = share_of_tokens(tokens) if len(tokens) == len(names) else even
            found[group.name] = _nearest(self._alone(group).bounds, shares)
        return found

    def _alone(self, group: Node, *, caps: bool = False) -> Setting:
        """The group's setting whatever the others have: everything in it that a file can get wrong."""
        even = {each.name: dict.fromkeys([m.name for m in each.members], 1 / len(each.members)) for each in self.groups}
        return Setting.over(
            self.config,
            self._asked_of(group),
            tokens=self._tokens_of(group),
            embedding=Embedding.alone(group, even, self.experts),
            most=self._most(group, 1.0) if caps else None,
        )

    @property
    def groups(self) -> tuple[Node, ...]:
        """All groups, the whole first."""
        return self.root.groups()

    def _most(self, group: Node, share: float) -> dict[str, float] | None:
        """Largest share of each member in a group that has `share` of the whole; None without a cap on epochs."""
        asked = self.asked
        if asked.max_epochs is None or asked.budget_tokens is None:
            return None

        capacity = {name: asked.max_epochs * count / asked.budget_tokens for name, count in self.tokens.items()}
        limits = {**asked.bounds, **{name: (fixed, fixed) for name, fixed in asked.fixed.items()}}
        return {member.name: most(member, limits, capacity) / max(share, LEAST_CAPPED) for member in group.members}

    def _strangers(self) -> Iterator[Problem]:
        """Names of no group and no expert."""
        groups = [group.name for group in self.groups[1:]]
        members = [member.name for group in self.groups for member in group.members]

        places = {"bounds": members, "fixed": members, "levels": groups}
        for place, known in places.items():
            for name in getattr(self.asked, place):
                if name not in known:
                    what = "a group" if place == "levels" else "a group or an expert"
                    found = f"expected the name of {what} ({', '.join(known) or 'there is none'})"
                    yield Problem(f"mixture.{place}.{name}", found, "Correct the name.")

    def _faulty_priors(self) -> Iterator[Problem]:
        for name, shares in self.asked.priors.items():
            try:
                from_shares(shares, self.experts, where=f"mixture, prior '{name}'")
            except AftermixError as error:
                yield from (Problem(each.where.removesuffix(", row 0"), each.found, each.remedy)
                            for each in error.problems)  # fmt: skip

    def _faulty_caps(self) -> Iterator[Problem]:
        if self.asked.max_epochs is None:
            return
        if not self.is_top_down:
            found = "caps the repeats in a tree that is searched bottom up, where shares of the whole come last"
            yield Problem("mixture.max_epochs", found, "Search it with `direction: top_down`, or leave the cap out.")

        for name in self.experts:
            if name not in self.tokens:
                found = "missing, but `mixture.max_epochs` caps the repeats of its data"
                yield Problem(f"vectors.{name}.tokens", found, "Add it: how many tokens its data has.")

    def _faulty_levels(self) -> list[Problem]:
        """Faults of any group, and of the caps of the whole; what is said of all groups is told once."""
        told: dict[tuple[str, str], Problem] = {}
        for group in self.groups[::-1]:
            try:
                self._alone(group, caps=group is self.root and not told)
            except AftermixError as error:
                for each in error.problems:
                    where = self._placed(each.where, group)
                    told.setdefault((where, each.found), Problem(where, each.found, each.remedy))
        return list(told.values())

    def _placed(self, where: str, group: Node) -> str:
        """Place in the file of a fault of a group."""
        level = self.asked.levels.get(group.name, LevelConfig())
        if where.startswith("mixture.utility"):
            return where.replace("mixture.", f"mixture.levels.{group.name}.", 1) if level.utility else where
        return where if where.startswith(SHARED) else f"group '{group.name}': {where}"


def level_folder(run: Path, name: str) -> Path:
    """Folder of the search in a group."""
    return run / LEVELS / name


def stored_shares(run: Path, name: str) -> dict[str, float] | None:
    """The shares that were found in a group; None as long as they are not."""
    path = level_folder(run, name) / BEST
    if not path.is_file():
        return None
    return dict(json.loads(path.read_text(encoding="utf-8"))["shares"])


def level_setting(config: Config, run: Path, name: str) -> Setting:
    """The problem that the search in group `name` of the run folder `run` had, from what was found before it."""
    levels = Levels.of(config)
    inner = dict(levels.start)

    for group in levels.order:
        if group.name == name:
            return levels.setting(group, inner)
        inner[group.name] = stored_shares(run, group.name) or inner[group.name]

    known = ", ".join(group.name for group in levels.order)
    raise AftermixError(f"{WHERE}: '{name}'", f"is no group; they are {known}", "Correct the name.")


def _nearest(bounds: Bounds, shares: Mapping[str, float]) -> dict[str, float]:
    """`shares` if they are allowed, else the nearest that are."""
    wanted_1K = np.array([[shares[name] for name in bounds.domains]])
    return named((wanted_1K if bounds.admits(wanted_1K)[0] else bounds.nearest(wanted_1K))[0], bounds.domains)


def _asked(config: Config) -> MixtureConfig:
    assert config.mixture is not None  # noqa: S101 - the job requires it; for the type checker
    return config.mixture


def _plain(node: Node) -> dict[str, Any]:
    return {member.name: _plain(member) if member.is_group else None for member in node.members}
