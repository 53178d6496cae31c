"""What is searched in each group of a tree, and every refusal by its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.mixture.tree_problem import TreeProblem
from aftermix.jobs.plan.counts import count_mixture_measurements
from aftermix.mixture.tree import TreeNode

TREE = {"code": {"repos": None, "contests": None}, "text": ["web", {"books": ["old", "new"]}]}
EXPERTS = ("repos", "contests", "web", "old", "new")
EVEN = {"points": 8, "repeats": 1}


def config_of(*, tokens: dict[str, float] | None = None, tree: Any = TREE, **asked: Any) -> Config:
    known = tokens or {}
    vectors = {name: {"model": f"./{name}", **({"tokens": known[name]} if name in known else {})} for name in EXPERTS}
    values = {
        "base": "./base",
        "vectors": {"it": {"model": "./it", "role": "instruction", "weight": 0.6}, **vectors},
        "evaluate": {"tasks": ["x", "y", "z"]},
        "mixture": {"tree": tree, **asked},
    }
    return parse_config(values, where="f.yaml", folder=Path())


def group(levels: TreeProblem, name: str) -> TreeNode:
    return next(one for one in levels.groups if one.name == name)


def told(**asked: Any) -> str:
    with pytest.raises(AftermixError) as caught:
        TreeProblem.from_config(config_of(**asked))
    return str(caught.value)


def test_the_order_is_from_the_whole_down_or_from_the_lowest_groups_up() -> None:
    down, up = TreeProblem.from_config(config_of()), TreeProblem.from_config(config_of(direction="bottom_up"))
    assert [one.name for one in down.order] == ["all", "code", "text", "books"]
    assert [one.name for one in up.order] == ["books", "text", "code", "all"]


def test_a_group_measures_the_points_of_the_section_but_at_most_ten_for_each_member() -> None:
    levels = TreeProblem.from_config(config_of(points=40, rounds=[4], levels={"books": {"points": 7, "rounds": []}}))
    wanted = {"all": 20, "code": 20, "text": 20, "books": 7}
    settings = {name: levels.build_problem(group(levels, name), levels.start) for name in wanted}
    assert {name: one.mixture.points for name, one in settings.items()} == wanted
    assert {name: len(one.design.kinds) for name, one in settings.items()} == wanted
    assert [settings[name].mixture.rounds for name in ("all", "books")] == [(4,), ()]
    assert [line.partition(";")[0] for line in levels.describe_groups()][-1] == "mixture group 'books': 7 points"


def test_groups_start_in_proportion_to_tokens_where_all_are_known_else_evenly_within_the_bounds() -> None:
    tokens = {"repos": 3e6, "contests": 1e6, "web": 2e6}
    start = TreeProblem.from_config(config_of(tokens=tokens, bounds={"web": (0.6, 0.9)})).start
    assert start["code"] == {"repos": 0.75, "contests": 0.25}
    assert start["text"] == pytest.approx({"web": 0.6, "books": 0.4})
    assert start["books"] == {"old": 0.5, "new": 0.5}
    assert start["all"] == {"code": 0.5, "text": 0.5}


def test_top_down_the_others_stand_at_what_is_known_and_bottom_up_they_are_not_there() -> None:
    inner = {
        "all": {"code": 0.6, "text": 0.4},
        "code": {"repos": 0.5, "contests": 0.5},
        "text": {"web": 0.25, "books": 0.75},
        "books": {"old": 0.1, "new": 0.9},
    }
    shares_K = np.array([0.8, 0.2])
    down, up = TreeProblem.from_config(config_of()), TreeProblem.from_config(config_of(direction="bottom_up"))
    whole = down.build_problem(group(down, "books"), inner).compute_weights(shares_K)
    assert whole == pytest.approx({"it": 0.6, "repos": 0.3, "contests": 0.3, "web": 0.1, "old": 0.24, "new": 0.06})
    alone = up.build_problem(group(up, "text"), inner).compute_weights(shares_K)
    assert alone == pytest.approx({"it": 0.6, "repos": 0.0, "contests": 0.0, "web": 0.8, "old": 0.02, "new": 0.18})
    assert dict(down.consolidate_experts(inner))["text"] == pytest.approx(
        {"it": 0.0, "repos": 0.0, "contests": 0.0, "web": 0.25, "old": 0.075, "new": 0.675}
    )


def test_bounds_and_priors_are_shares_in_the_group_and_a_group_may_want_something_else() -> None:
    prior = {"repos": 0.4, "contests": 0.1, "web": 0.2, "old": 0.2, "new": 0.1}
    asked = {
        "priors": {"ours": prior},
        "bounds": {"code": (0.2, 0.8), "old": (0.3, 1.0)},
        "pull": 0.1,
        "toward": "ours",
    }
    levels = TreeProblem.from_config(
        config_of(levels={"code": {"utility": "x - y"}}, fixed={"web": 0.4}, **asked, tree=WIDE)
    )
    settings = {name: levels.build_problem(group(levels, name), levels.start) for name in ("all", "code", "text")}
    assert settings["all"].named_mixtures["ours"] == pytest.approx([0.5, 0.5])
    assert settings["all"].bounds.high_K.tolist() == [0.8, 1.0]
    assert settings["code"].named_mixtures["ours"] == pytest.approx([0.8, 0.2])
    assert settings["code"].mixture.utility.expression == "x - y"
    assert settings["all"].mixture.utility.expression is None
    assert settings["text"].bounds.low_K.tolist() == [0.4, 0.3, 0.0]


WIDE = {"code": ["repos", "contests"], "text": ["web", "old", "new"]}


def test_a_prior_that_gives_a_group_nothing_is_none_of_its_points_and_does_not_pull() -> None:
    prior = {"repos": 0.4, "contests": 0.1, "web": 0.5}
    tree = {"code": ["repos", "contests", "web"], "books": ["old", "new"]}
    levels = TreeProblem.from_config(config_of(priors={"ours": prior}, fixed={}, tree=tree))
    assert "ours" not in levels.build_problem(group(levels, "books"), levels.start).named_mixtures
    asked = {"priors": {"ours": prior}, "pull": 0.1, "toward": "ours", "bounds": {"books": (0.0, 0.0)}}
    pulled = TreeProblem.from_config(config_of(tree=["repos", "contests", "web", {"books": ["old", "new"]}], **asked))
    assert pulled.build_problem(group(pulled, "books"), pulled.start).mixture.pull == 0
    assert pulled.build_problem(group(pulled, "all"), pulled.start).mixture.pull == 0.1


def test_caps_on_epochs_bound_a_group_by_what_its_members_have_and_members_by_its_share() -> None:
    tokens = {"repos": 1e6, "contests": 2e6, "web": 2e7, "old": 2e6, "new": 1e6}
    levels = TreeProblem.from_config(
        config_of(tokens=tokens, budget_tokens=1e7, max_epochs=2, bounds={"repos": (0.5, 1.0)})
    )
    assert levels.build_problem(levels.root, levels.start).bounds.high_K == pytest.approx([0.4, 1.0])
    inner = dict(levels.start) | {"all": {"code": 0.3, "text": 0.7}}
    code = levels.build_problem(group(levels, "code"), inner).bounds
    assert code.high_K == pytest.approx([2 / 3, 1.0])
    assert code.low_K.tolist() == [0.5, 0.0]
    assert levels.keep_shares(group(levels, "code"), inner) == levels.start["code"]
    full = dict(inner) | {"all": {"code": 0.4, "text": 0.6}, "code": {"repos": 0.9, "contests": 0.1}}
    with pytest.raises(AftermixError, match="the bounds leave one mixture only"):
        levels.build_problem(group(levels, "code"), full)
    assert levels.keep_shares(group(levels, "code"), full) == pytest.approx({"repos": 0.5, "contests": 0.5})


CAPPED = {
    "tokens": {"repos": 5e4, "contests": 5.5e5, "web": 9e5, "old": 1e5, "new": 1e5},
    "budget_tokens": 1e6,
    "max_epochs": 1,
    "bounds": {"repos": (0.5, 1.0)},
}
"""`code` may have a tenth of the whole, and at first it has a third."""


def test_a_plan_does_not_need_shares_that_only_the_search_finds() -> None:
    config = config_of(**CAPPED)
    levels = TreeProblem.from_config(config)
    with pytest.raises(AftermixError, match="has at least 0.5 of the mixture but data for 0.1417"):
        levels.build_problem(group(levels, "code"), levels.start)
    assert [one.domains for one in levels.plan_problems()] == [
        tuple(m.name for m in each.members) for each in levels.order
    ]
    assert count_mixture_measurements(config)["search"] == 4 * 20


def test_a_prior_that_caps_rule_out_in_a_group_is_no_point_there_and_the_group_is_searched() -> None:
    tokens = {"repos": 2e5, "contests": 6e5, "web": 9e5, "old": 1e5, "new": 1e5}
    prior = {"repos": 0.27, "contests": 0.03, "web": 0.5, "old": 0.1, "new": 0.1}
    asked = {"priors": {"ours": prior}, "pull": 0.1, "toward": "ours", "budget_tokens": 1e6, "max_epochs": 1}
    levels = TreeProblem.from_config(config_of(tokens=tokens, **asked))
    inner = dict(levels.start)
    for share, kinds in ((0.2, ("uniform", "prior ours")), (0.5, ("uniform", "prior tokens"))):
        inner["all"] = {"code": share, "text": 1 - share}
        setting = levels.build_problem(group(levels, "code"), inner)
        assert setting.design.kinds[:2] == kinds
        assert setting.bounds.high_K[0] == pytest.approx(min(1, 0.2 / share))
        assert setting.build_goal(setting.build_utility(np.eye(3))).prior_K == pytest.approx([0.9, 0.1])
    strict = {**asked, "priors": {"ours": {"repos": 0.6, "contests": 0.3, "web": 0.08, "old": 0.01, "new": 0.01}}}
    assert "prior 'ours': has 0.9 of 'code', expected 0 to 0.8" in told(tokens=tokens, **strict)


def test_every_fault_of_the_section_is_told_at_once() -> None:
    message = told(
        bounds={"codes": (0, 1)}, fixed={"it": 0.5}, levels={"web": {"points": 9}}, priors={"p": {"web": 0.5, "q": 0.5}}
    )
    names = "code, text, repos, contests, web, books, old, new"
    assert f"mixture.bounds.codes: expected the name of a group or an expert ({names})" in message
    assert "mixture.fixed.it: expected the name of a group or an expert" in message
    assert "mixture.levels.web: expected the name of a group (code, text, books)" in message
    assert "mixture, prior 'p': expected names among repos, contests, web, old, new, found 'q'" in message


def test_faults_of_a_group_name_it_and_those_of_all_are_told_once() -> None:
    message = told(
        bounds={"repos": (0.8, 0.9), "contests": (0.4, 0.5)},
        levels={"books": {"points": 2}, "code": {"utility": "poems"}},
        capabilities={"both": ["x", "poem"]},
        utility={"weights": {"rhymes": 1}},
    )
    assert "group 'code': mixture.bounds: the lowest shares sum to 1.2, above 1" in message
    assert "group 'books': mixture.points: expected at least 5 points" in message
    assert "mixture.levels.code.utility.expression" in message
    assert message.count("mixture.capabilities.both: expected tasks that are evaluated (x, y, z), found 'poem'") == 1
    assert message.count("found 'rhymes'") == 1


def test_caps_need_tokens_the_way_down_and_room() -> None:
    message = told(direction="bottom_up", budget_tokens=1e7, max_epochs=2, tokens=dict.fromkeys(EXPERTS[1:], 1e6))
    assert "mixture.max_epochs: caps the repeats in a tree that is searched bottom up" in message
    assert "vectors.repos.tokens: missing, but `mixture.max_epochs` caps the repeats of its data" in message
    scarce = told(budget_tokens=1e8, max_epochs=2, tokens=dict.fromkeys(EXPERTS, 1e6))
    assert "group 'all': mixture.bounds: the highest shares sum to 0.1, below 1" in scarce


def test_keys_of_a_tree_without_one_are_refused() -> None:
    for asked in ({"direction": "bottom_up"}, {"experts": True}, {"levels": {"code": {"points": 9}}}):
        with pytest.raises(AftermixError, match=f"'{next(iter(asked))}' is about the groups of a 'tree'"):
            config_of(tree=None, **asked)
    with pytest.raises(AftermixError, match=r"mixture\.levels\.code\.pts: is not a known key"):
        config_of(levels={"code": {"pts": 9}})
