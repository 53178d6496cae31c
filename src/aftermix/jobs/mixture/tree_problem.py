"""Tree of domains in a file: one mixture problem for each group, all checked before any work begins.

A group is searched like a mixture of its own whose domains are its members. What it measures hangs on shares that other
groups have by then: bottom up those of the groups below it, top down those of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aftermix.config import Config, LevelConfig, MixtureConfig
from aftermix.errors import AftermixError, Problem, ask_meant, join_place, refuse_if_any
from aftermix.jobs.mixture.baselines import BASE, LABELS, NamedMixture
from aftermix.jobs.mixture.faults import ProblemCollector
from aftermix.jobs.mixture.points import name_fitted, read_fitted
from aftermix.jobs.mixture.problem import TOKENS, UNIFORM, FittedScores, MixtureProblem, find_textless
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.simplex import name_shares, order_shares, share_by_tokens
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS
from aftermix.mixture.tree import (
    ROOT,
    WHERE,
    GroupEmbedding,
    Inner,
    TreeBounds,
    TreeNode,
    find_share,
    limit_share,
    multiply_shares,
    parse_tree,
    share_within,
)
from aftermix.runs.mixture_records import GroupMembersRecord, TreeDesignRecord
from aftermix.runs.reader import locate_level, read_level

POINTS_PER_MEMBER = 10
"""A group of few members needs fewer points than the section's; no group measures more."""
LEAST_CAPPED = 1e-6
"""Under smaller shares of the whole no cap on epochs binds."""
SHARED = ("mixture.capabilities", "mixture.toward")
"""Places in the file that speak of all groups at once."""


@dataclass(frozen=True)
class TreeProblem:
    """The groups of a tree, checked."""

    config: Config
    root: TreeNode
    start: Inner
    """By group, the shares of its members as long as nothing else is known: in proportion to tokens where those of all
    its experts are known, else equal; the nearest allowed ones."""
    fitted: FittedScores

    @classmethod
    def from_config(cls, config: Config, *, fitted: FittedScores = "capabilities") -> TreeProblem:
        """Raises :class:`ManyProblemsError` with every fault of the tree, or every fault of what is asked of it."""
        experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
        tree = cls(config, parse_tree(_require_section(config).tree, experts), {}, fitted)
        problems = [*tree._find_unknown_names(), *tree._find_faulty_priors(), *tree._find_faulty_caps()]
        problems += find_textless(config, tree.section)
        refuse_if_any(problems or tree._find_faulty_levels())
        return cls(config, tree.root, tree._find_start(), fitted)

    @property
    def section(self) -> MixtureConfig:
        """The section."""
        return _require_section(self.config)

    @property
    def experts(self) -> tuple[str, ...]:
        """All experts, in the order of the file."""
        return tuple(name for name, vector in self.config.vectors.items() if vector.role == "expert")

    @property
    def tokens(self) -> dict[str, int]:
        """By expert, where known."""
        return {name: t for name in self.experts if (t := self.config.vectors[name].tokens) is not None}

    @property
    def order(self) -> tuple[TreeNode, ...]:
        """The groups in the order in which they are searched."""
        groups = self.root.groups()
        return groups if self.is_top_down else groups[::-1]

    @property
    def is_top_down(self) -> bool:
        """True if the whole is searched first, and measured at every group."""
        return self.section.direction == "top_down"

    @property
    def first_problem(self) -> MixtureProblem:
        """That of the whole as long as nothing is known: its capabilities, instruction vectors and seed are all's."""
        return self.build_problem(self.root, self.start)

    def build_problem(self, group: TreeNode, inner: Inner) -> MixtureProblem:
        """The problem of `group` when the shares `inner` are known.

        Raises :class:`AftermixError` for caps on epochs that leave its members no choice.
        """
        if self.is_top_down:
            embedding = GroupEmbedding.among_others(self.root, group, inner, self.experts)
            share = find_share(self.root, group.name, inner)
        else:
            embedding, share = GroupEmbedding.alone(group, inner, self.experts), 1.0

        return MixtureProblem.from_config(
            self.config,
            self._narrow_section(group),
            tokens=self._sum_tokens(group),
            embedding=embedding,
            largest_shares=self._limit_shares(group, share),
            fitted=self.fitted,
            # How far caps bind within a group is not known before its share is, so no file can be held against it.
            stray_priors=group is not self.root,
        )

    @property
    def flat_problem(self) -> MixtureProblem:
        """All experts side by side; of its own it has no limits but the caps on epochs, see :meth:`build_limits`.

        Raises :class:`AftermixError` for caps that leave no choice.
        """
        section = self.section
        # Nobody measures its design, which has as many points as its checks ask for.
        settled: dict[str, object] = {"points": FEWEST_POINTS + 2 + len(self.experts) + len(section.priors)}
        settled |= {"tree": None, "levels": {}, "experts": False, "bounds": {}, "fixed": {}, "repeats": 0}
        return MixtureProblem.from_config(
            self.config,
            section.model_copy(update=settled),
            tokens=self.tokens,
            embedding=GroupEmbedding.flat(self.experts),
            fitted=self.fitted,
            stray_priors=True,
        )

    def build_limits(self) -> TreeBounds:
        """The limits of all groups and the caps on epochs, for mixtures of all experts side by side."""
        limits, capacity = self._list_limits(), self._list_capacities()
        return TreeBounds.build(self.root, self.experts, limits=limits, capacity=capacity)

    def plan_problems(self) -> tuple[MixtureProblem, ...]:
        """The groups' problems in the order of the search, whatever shares are found on the way."""
        return tuple(self._build_alone(group) for group in self.order)

    def keep_shares(self, group: TreeNode, inner: Inner) -> dict[str, float]:
        """The shares that a group has without a search: its first ones, or the nearest that caps on epochs allow."""
        names, section = [member.name for member in group.members], self._narrow_section(group)
        share = find_share(self.root, group.name, inner) if self.is_top_down else 1.0

        caps = self._limit_shares(group, share)
        bounds = ShareBounds.build(names, bounds=section.bounds, fixed=section.fixed, largest_shares=caps)
        return _find_nearest_allowed(bounds, inner[group.name])

    def build_design_record(self) -> TreeDesignRecord:
        """`design.json` of the run: points are those of the levels."""
        record = TreeDesignRecord(
            domains=self.experts,
            points=(),
            repeats=(),
            tree=_nest_members(self.root),
            direction=self.section.direction,
            levels=tuple(group.name for group in self.order),
        )
        return record.model_copy(update=name_fitted(self.first_problem))

    def describe_groups(self) -> Iterator[str]:
        """A line for each group, in the order of the search."""
        for group in self.order:
            problem = self._build_alone(group)
            rounds = "".join(f", then {count}" for count in problem.mixture.rounds)
            members = ", ".join(f"{name} {share:.3g}" for name, share in self.start[group.name].items())
            first = f"; at first {members}" if self.is_top_down else f" of {', '.join(problem.domains)}"
            yield f"mixture group '{group.name}': {len(problem.design.kinds)} points{rounds}{first}"

    def list_named_mixtures(self, root_shares: Mapping[str, float] | None = None) -> Iterator[NamedMixture]:
        """Mixtures of all experts that need no search within groups, and the base; `root_shares` are the whole's.

        Top down, the whole as it is found with the groups at their first shares tells what the search in them adds.
        """
        complete_weights = self.first_problem.complete_weights
        yield LABELS[UNIFORM], "mixture", complete_weights(dict.fromkeys(self.experts, 1 / len(self.experts)))
        if len(self.tokens) == len(self.experts):
            yield LABELS[TOKENS], "mixture", complete_weights(share_by_tokens(self.tokens))

        for name, shares in self.section.priors.items():
            prior_L = order_shares(shares, self.experts, where=f"prior '{name}'")
            yield f"prior {name}", "mixture", complete_weights(name_shares(prior_L, self.experts))

        if self.is_top_down and len(self.groups) > 1:
            inner = {**self.start, ROOT: root_shares or self.start[ROOT]}
            yield "groups as at first", "mixture", complete_weights(multiply_shares(self.root, inner))

        for name in self.experts:
            yield f"{name} alone", "expert", complete_weights({name: 1.0})
        yield BASE, BASE, None

    def consolidate_experts(self, inner: Inner) -> Iterator[tuple[str, dict[str, float]]]:
        """By group below the whole, the weights of its consolidated expert: no other data, no instruction vector."""
        for group in self.root.groups()[1:]:
            shares = multiply_shares(group, inner)
            yield group.name, {name: shares.get(name, 0.0) for name in self.config.vectors}

    def _narrow_section(self, group: TreeNode) -> MixtureConfig:
        """The section as it holds for one group."""
        section, level = self.section, self.section.levels.get(group.name, LevelConfig())
        names = [member.name for member in group.members]
        priors = {name: shares for name, prior in section.priors.items() if (shares := share_within(group, prior))}

        # A prior that gives a group nothing says nothing of the shares in it.
        free = section.toward in section.priors and section.toward not in priors
        settled = {"toward": UNIFORM, "pull": 0.0} if free else {}
        settled |= {"budget_tokens": None, "max_epochs": None, "tree": None, "levels": {}, "experts": False}
        settled["second_order"] = False  # told of the whole

        return section.model_copy(
            update={
                "points": level.points or min(section.points, POINTS_PER_MEMBER * len(names)),
                "rounds": section.rounds if level.rounds is None else level.rounds,
                "utility": level.utility or section.utility,
                "bounds": {name: section.bounds[name] for name in names if name in section.bounds},
                "fixed": {name: section.fixed[name] for name in names if name in section.fixed},
                "priors": priors,
            }
            | settled
        )

    def _sum_tokens(self, group: TreeNode) -> dict[str, int]:
        known = self.tokens
        return {
            member.name: sum(known[name] for name in member.experts)
            for member in group.members
            if all(name in known for name in member.experts)
        }

    def _find_start(self) -> dict[str, dict[str, float]]:
        shares_by_group = {}
        for group in self.root.groups():
            names, tokens = [member.name for member in group.members], self._sum_tokens(group)
            even = dict.fromkeys(names, 1 / len(names))
            shares = share_by_tokens(tokens) if len(tokens) == len(names) else even
            shares_by_group[group.name] = _find_nearest_allowed(self._build_alone(group).bounds, shares)
        return shares_by_group

    def _build_alone(self, group: TreeNode, *, caps: bool = False) -> MixtureProblem:
        """The group's setting whatever the others have: everything in it that a file can get wrong."""
        even = {each.name: dict.fromkeys([m.name for m in each.members], 1 / len(each.members)) for each in self.groups}
        return MixtureProblem.from_config(
            self.config,
            self._narrow_section(group),
            tokens=self._sum_tokens(group),
            embedding=GroupEmbedding.alone(group, even, self.experts),
            largest_shares=self._limit_shares(group, 1.0) if caps else None,
            fitted=self.fitted,
        )

    @property
    def groups(self) -> tuple[TreeNode, ...]:
        """All groups, the whole first."""
        return self.root.groups()

    def _limit_shares(self, group: TreeNode, share: float) -> dict[str, float] | None:
        """Largest share of each member in a group that has `share` of the whole; None without a cap on epochs."""
        limits, capacity = self._list_limits(), self._list_capacities()
        if not capacity:
            return None
        return {
            member.name: limit_share(member, limits, capacity) / max(share, LEAST_CAPPED) for member in group.members
        }

    def _list_limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest share of a member in its group, of those that have limits."""
        section = self.section
        return {**section.bounds, **{name: (fixed, fixed) for name, fixed in section.fixed.items()}}

    def _list_capacities(self) -> dict[str, float]:
        """The most of the whole that an expert may have, where epochs are capped; else none."""
        section = self.section
        if section.max_epochs is None or section.budget_tokens is None:
            return {}
        return {name: section.max_epochs * count / section.budget_tokens for name, count in self.tokens.items()}

    def _find_unknown_names(self) -> Iterator[Problem]:
        """Names of no group and no expert."""
        groups = [group.name for group in self.groups[1:]]
        members = [member.name for group in self.groups for member in group.members]

        places = {"bounds": members, "fixed": members, "levels": groups}
        for place, known in places.items():
            for name in getattr(self.section, place):
                if name not in known:
                    kind = "a group" if place == "levels" else "a group or an expert"
                    found = f"expected the name of {kind} ({', '.join(known) or 'there is none'})"
                    remedy = ask_meant("Correct the name.", name, known)
                    yield Problem(join_place(f"mixture.{place}", name), found, remedy)

    def _find_faulty_priors(self) -> list[Problem]:
        problems = ProblemCollector()
        for name, shares in self.section.priors.items():
            with problems.collect("mixture"):
                order_shares(shares, self.experts, where=f"prior '{name}'")
        return problems.collected

    def _find_faulty_caps(self) -> Iterator[Problem]:
        if self.section.max_epochs is None:
            return
        if not self.is_top_down:
            found = "caps the repeats in a tree that is searched bottom up, where shares of the whole come last"
            yield Problem("mixture.max_epochs", found, "Search it with `direction: top_down`, or leave the cap out.")

        for name in self.experts:
            if name not in self.tokens:
                found = "missing, but `mixture.max_epochs` caps the repeats of its data"
                yield Problem(join_place("vectors", name, "tokens"), found, "Add how many the expert was trained on.")

    def _find_faulty_levels(self) -> list[Problem]:
        """Faults of any group, and of the caps of the whole; what is said of all groups is told once."""
        problems: dict[tuple[str, str], Problem] = {}
        for group in self.groups[::-1]:
            try:
                self._build_alone(group, caps=group is self.root and not problems)
            except AftermixError as error:
                for each in error.problems:
                    where = self._locate_fault(each.where, group)
                    problems.setdefault((where, each.found), Problem(where, each.found, each.remedy))
        return list(problems.values())

    def _locate_fault(self, where: str, group: TreeNode) -> str:
        """Place in the file of a fault of a group."""
        level = self.section.levels.get(group.name, LevelConfig())
        if where.startswith("mixture.utility"):
            return (
                where.replace("mixture.", f"{join_place('mixture.levels', group.name)}.", 1) if level.utility else where
            )
        return where if where.startswith(SHARED) else f"group '{group.name}': {where}"


def read_stored_shares(run: Path, name: str) -> dict[str, float] | None:
    """The shares that were found in a group; None as long as they are not."""
    level = read_level(locate_level(run, name))
    return level.shares if level else None


def build_level_problem(config: Config, run: Path, name: str) -> MixtureProblem:
    """The problem that the search in group `name` of the run folder `run` had, from what was found before it."""
    tree = TreeProblem.from_config(config, fitted=read_fitted(run))
    inner = dict(tree.start)

    for group in tree.order:
        if group.name == name:
            return tree.build_problem(group, inner)
        inner[group.name] = read_stored_shares(run, group.name) or inner[group.name]

    known = ", ".join(group.name for group in tree.order)
    raise AftermixError(f"{WHERE}: '{name}'", f"is no group; they are {known}", "Correct the name.")


def _find_nearest_allowed(bounds: ShareBounds, shares: Mapping[str, float]) -> dict[str, float]:
    """`shares` if they are allowed, else the nearest that are."""
    wanted_1K = np.array([[shares[name] for name in bounds.domains]])
    return name_shares((wanted_1K if bounds.admits(wanted_1K)[0] else bounds.nearest(wanted_1K))[0], bounds.domains)


def _require_section(config: Config) -> MixtureConfig:
    assert config.mixture is not None  # noqa: S101 - the job requires it; for the type checker
    return config.mixture


def _nest_members(node: TreeNode) -> GroupMembersRecord:
    return GroupMembersRecord({m.name: _nest_members(m) if m.is_group else None for m in node.members})
