"""The whole page: complete, self-contained, escaped, the same every time, and honest about an unfinished run."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.unit.response.response_world import ParabolaWorld

from aftermix.report.page import write_report
from aftermix.runs.reader import read_run
from support.desk_reader import DeskReader
from support.desk_runs import add_response

VOID = {"meta", "link", "br", "wbr", "hr", "img", "input"}


class _Page(HTMLParser):
    """Balance of tags, ids, references and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def _page(run: Path) -> _Page:
    page = _Page(write_report(run).read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    return page


@pytest.mark.parametrize(
    "options",
    [
        {"vectors": ("it",), "tasks": ("gsm8k",)},
        {"vectors": ("it", "ja"), "scheme": "first"},
        {"vectors": ("it", "ja", "math"), "imported": 5, "floors": {"gsm8k": 0.5}},
        {"objectives": 2, "failed": (3,), "pruned": (4,)},
        {"objectives": 3},
        {"finished": False},
        {"finished": False, "failed": range(12)},
        {"baselines": False},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_kind_of_run_gives_one_self_contained_page(make_run, options):
    page = _page(make_run(**{"trials": 12, **options}))

    assert not {"script", "iframe", "object", "img"} & set(page.seen)
    local = {"config.yaml", "trials.jsonl", "best.json", "lock.json", "model/", "model/aftermix.yaml", "data:,"}
    assert {link for link in page.links if not link.startswith("#")} <= local
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    html = "".join(page.words)
    assert not re.search(r"@import|url\((?!#)", html)


def test_finished_run_shows_verdict_and_all_sections(make_run):
    page = _page(make_run(trials=20, failed=(7,)))

    assert "3.2 above the best baseline." in page.text
    sections = "baselines weights merged optimism progress space scan cost failures use provenance"
    assert [name for name in page.ids if name in sections.split()] == sections.split()
    assert "vector 'math' gives NaN" in page.text
    assert "Scores are in points from 0 to 100, with one decimal." in page.text
    assert "164 items: split in proportion" in page.text


def test_unfinished_run_says_so_and_how_to_resume(make_run, monkeypatch):
    run = make_run("half", trials=20, finished=False)
    lines = (run / "trials.jsonl").read_text().splitlines(keepends=True)
    (run / "trials.jsonl").write_text("".join(lines[:8]))
    monkeypatch.chdir(run.parent)

    page = _page(Path("half"))

    assert "This search is unfinished: 8 of 20 trials have ended." in page.text
    assert "aftermix search --resume half" in page.text
    assert "There is no merged model in this run yet." in page.text
    assert "baselines" not in page.ids


def test_run_without_a_trial_is_rendered(make_run):
    run = make_run(trials=3, finished=False)
    for name in ("trials.jsonl", "lock.json", "items/split.json"):
        (run / name).unlink()

    assert "has not finished its first trial of 3" in _page(run).text


def test_names_from_users_are_escaped_everywhere(make_run, edit_json):
    task = '<script>alert("1")</script>$x_1$ & \u65e5\u672c'
    run = make_run(tasks=(task, "b"), trials=12, failed=(2,), objectives=2)
    edit_json(run / "best.json", lambda best: best["baselines"][0].update(name="<img src=x onerror=1>"))
    edit_json(run / "lock.json", lambda lock: lock["versions"].update({"<b>": "</style><script>"}))

    html = write_report(run).read_text(encoding="utf-8")
    page = _page(run)

    assert "<script" not in html
    assert "<img" not in html
    assert "img" not in page.seen
    assert "script" not in page.seen
    assert task in page.text
    assert html.count("</style>") == 1


def test_a_page_with_a_desk_has_one_script_and_a_policy_that_lets_no_other_run(make_run):
    task = '</script><script>alert("1")</script><!-- & \u65e5\u672c'
    run = make_run(vectors=("it", "ja"), tasks=(task, "b"), trials=8)
    plain = _page(run)
    add_response(run, ParabolaWorld(items=30))

    page, html = _page(run), (run / "report.html").read_text(encoding="utf-8")

    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="desk-data"', ""]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    assert f'content="{policy}"'.replace("'", "&#39;") in html
    assert html.count("</style>") == 1
    assert page.seen.count("script") == 2
    assert DeskReader(run / "report.html").names == ["mean", task, "b"]

    assert set(page.links) - set(plain.links) == {"#desk"}
    assert not re.search(
        r"fetch|XMLHttp|import\(|https?:|localStorage|eval", scripts[1][1].replace("http://www.w3", "")
    )
    assert set(re.findall(r"var\(--([\w-]+)\)", html)) <= set(re.findall(r"--([\w-]+):", html))
    assert "desk" not in plain.ids


def test_paths_are_quoted_for_the_shell_and_for_python(make_run):
    page = _page(make_run("it's a run; rm -rf", trials=6))

    assert "--resume '" in page.text
    assert """'"'"'s a run; rm -rf'""" in page.text
    assert "it's a run; rm -rf/model\")" in page.text


def test_same_run_gives_the_same_bytes(make_run):
    run = make_run(trials=12, imported=4, failed=(5,))

    first = write_report(run).read_bytes()

    assert write_report(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []


def test_colours_follow_the_scheme_and_no_sentinel_is_left(make_run):
    html = write_report(make_run(trials=12)).read_text(encoding="utf-8")
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))

    assert "prefers-color-scheme: dark" in html
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    light, dark = (set(re.findall(r"--([\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL))
    assert used <= light
    assert light == dark


def test_large_run_stays_below_a_megabyte_and_a_half(make_run):
    names = tuple(f"{letter}-continual-pre-training-corpus-with-a-long-name" for letter in "abcdef")

    path = write_report(make_run(vectors=names, trials=500))

    assert path.stat().st_size < 1_500_000


def test_every_scored_trial_has_a_tooltip_in_the_weight_space(make_run):
    run = make_run(vectors=("it", "ja"), trials=15, failed=(3,))
    html = write_report(run).read_text(encoding="utf-8")
    space = next(
        drawing for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "two vectors a panel" in drawing
    )

    titles = re.findall(r"<title>(trial \d+: [\d.]+; it [^<]+)</title>", space)

    assert len(titles) == sum(trial.state == "complete" for trial in read_run(run).trials) == 14
