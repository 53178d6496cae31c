"""The page of a tree of domains, whole and unfinished."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.report.page import write_report
from aftermix.report.sections.mixture_tree import count_searched_groups, list_level_notes, list_tree_rows
from aftermix.runs.mixture_records import TreeGroupRecord
from aftermix.runs.reader import read_run
from aftermix.runs.records import BestRecord

VOID = {"meta", "link", "br", "wbr", "hr", "img", "input", "path", "use"}
FIXTURE = Path(__file__).parents[3] / "data" / "runs-0a1294b"
TREE = {
    "name": "all",
    "share": 1.0,
    "shares": {"text": 0.6, "code": 0.4},
    "share_intervals": {"text": [0.5, 0.7], "code": [0.3, 0.5]},
    "point": "optimum",
    "measured": 20,
    "note": None,
    "groups": [
        {
            "name": "text",
            "share": 0.6,
            "shares": {"ja": 0.25, "law": 0.75},
            "share_intervals": None,
            "point": None,
            "measured": 0,
            "note": "every mixture scored the same, so nothing tells its shares apart",
            "groups": [],
        },
        {
            "name": "code",
            "share": 0.4,
            "shares": {"math": 0.5, "code2": 0.5},
            "share_intervals": {"math": [0, 1], "code2": [0, 1]},
            "point": "neighbour 1",
            "measured": 1,
            "note": None,
            "groups": [],
        },
    ],
}


def level(name: str, shares: dict[str, float]) -> dict[str, Any]:
    """A group's `best.json`, with two verified mixtures."""
    values = json.loads((FIXTURE / "tree/levels/left/best.json").read_text())
    point = values["verified"][0] | {"shares": shares}
    values["optimum"] |= {"shares": shares, "share_intervals": {}}
    values["verified"] = [point, point | {"name": "best measured"}]
    return values | {"level": name, "shares": shares, "ratios": shares}


@pytest.fixture
def tree_run(make_run: Callable[..., Path]) -> Path:
    run = make_run("tree", trials=4)
    (run / "trials.jsonl").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["mixture"] = {"tree": {"text": ["ja", "law"], "code": ["math", "code2"]}, "direction": "bottom_up"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    design = {"domains": ["ja", "law", "math", "code2"], "points": [], "repeats": []}
    tree = {"text": {"ja": None, "law": None}, "code": {"math": None, "code2": None}}
    design |= {"tree": tree, "direction": "bottom_up", "levels": ["code", "text", "all"]}
    (run / "design.json").write_text(json.dumps(design))
    best = json.loads((FIXTURE / "tree/best.json").read_text())
    (run / "best.json").write_text(json.dumps(best | {"tree": TREE, "direction": "bottom_up"}))
    for name, shares in {"all": TREE["shares"], "code": TREE["groups"][1]["shares"], "text": {}}.items():
        (run / "levels" / name).mkdir(parents=True)
        (run / "levels" / name / "best.json").write_text(json.dumps(level(name, shares)))
    return run


class Balance(HTMLParser):
    """Tags that are open, and ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_of_a_tree_is_valid_and_has_every_group(tree_run: Path) -> None:
    html = write_report(tree_run).read_text(encoding="utf-8")
    page = Balance(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert '<a href="#mixture">' in html
    assert "Bottom up: the lowest groups first, 3 groups." in html
    assert "<summary>Group code: 1 point. Utility: mean of both, over z-scores. The winner is the optimum." in html
    assert "Group text: 0 points. Its shares are those it had at first: every mixture scored the same" in html
    assert html.count("Verified by merging") == 2


def test_rows_are_members_below_their_groups_with_products_of_shares() -> None:
    tree = TreeGroupRecord.model_validate(TREE)
    rows = [(row.name, row.depth, row.share, row.interval, row.whole) for row in list_tree_rows(tree)]
    assert rows[:4] == [
        ("text", 0, "60.0 %", "50.0 % to 70.0 %", "60.0 %"),
        ("ja", 1, "25.0 %", "", "15.0 %"),
        ("law", 1, "75.0 %", "", "45.0 %"),
        ("code", 0, "40.0 %", "30.0 % to 50.0 %", "40.0 %"),
    ]
    assert list(list_level_notes(tree)) == ["'text': every mixture scored the same, so nothing tells its shares apart."]


def test_an_unfinished_tree_tells_how_many_groups_are_searched(tree_run: Path) -> None:
    (tree_run / "best.json").unlink()
    (tree_run / "levels" / "all" / "best.json").unlink()
    assert count_searched_groups(tree_run) == (2, 3)
    assert read_run(tree_run).best is None
    html = write_report(tree_run).read_text(encoding="utf-8")
    assert "This search is unfinished: 2 of 3 groups have been searched." in html
    assert "bottom up, 3 groups of at most 40 points" in html
    assert Balance(html).open == []


def test_a_run_without_a_tree_has_no_such_section(make_run: Callable[..., Path]) -> None:
    run = make_run("flat", trials=4)
    assert count_searched_groups(run) is None
    assert isinstance(read_run(run).best, BestRecord)
