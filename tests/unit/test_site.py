"""The documentation site: built without a warning, every link and anchor of it leads somewhere, nothing is fetched."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import aftermix
from support.forked import run_forked

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))"
RECIPE = re.compile(r"^\t\$\(BIN\)/python -m sphinx (.*) \. build/docs$", re.MULTILINE)
ELSEWHERE = re.compile(r"(\w+:)?//|mailto:|data:")
FETCHED_BY_CSS = re.compile(r"@import|url\(\s*[\"']?(?:https?:)?//")


@dataclass
class SitePage(HTMLParser):
    """A page of the site: what it links to, what it loads, and its anchors."""

    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif "href" in given and tag == "link" and given.get("rel") not in ("canonical", "author"):
            self.loads.add(given["href"])
        if "src" in given:
            self.loads.add(given["src"])


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of the site, made by the options of `make docs`, and the process that made it."""
    recipe = RECIPE.search((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert recipe
    folder = tmp_path_factory.mktemp("site")
    return folder, run_forked(BUILD, *shlex.split(recipe[1]), ROOT, folder, folder=ROOT)


@pytest.fixture(scope="module")
def site(build: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[Path, SitePage]:
    """Pages of the site by their files."""
    pages = {}
    for path in sorted(build[0].rglob("*.html")):
        pages[path] = SitePage()
        pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def test_the_site_is_built_without_a_warning(build: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, process = build
    assert (process.returncode, process.stderr) == (0, "")
    for page in ("index", "README", "docs/README", "docs/how-to/search", "docs/python-api", "CHANGELOG", "search"):
        assert (folder / f"{page}.html").is_file(), page


def find_broken(page: Path, links: set[str], site: dict[Path, SitePage]) -> Iterator[str]:
    for link in sorted(links):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        file = (page.parent / path.partition("?")[0]).resolve() if path else page
        if not file.is_file() or (anchor and file in site and anchor not in site[file].anchors):
            yield f"{page.name}: {link}"


def test_every_link_and_anchor_of_the_site_leads_somewhere(site: dict[Path, SitePage]) -> None:
    broken = [link for path, page in site.items() for link in find_broken(path, page.links | page.loads, site)]
    assert broken == []
    assert sum(len(page.links) for page in site.values()) > 2000


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("")
    seen = find_broken(page, {"a.html#there", "a.html#gone", "b.html", "#gone", "https://c"}, {page: SitePage()})
    assert list(seen) == ["a.html: #gone", "a.html: a.html#gone", "a.html: a.html#there", "a.html: b.html"]


def test_nothing_is_fetched_from_elsewhere(
    build: tuple[Path, subprocess.CompletedProcess[str]], site: dict[Path, SitePage]
) -> None:
    assert [load for page in site.values() for load in page.loads if re.match(r"(https?:)?//", load)] == []
    sheets = list(build[0].rglob("*.css"))
    assert sheets
    assert [sheet.name for sheet in sheets if FETCHED_BY_CSS.search(sheet.read_text(encoding="utf-8"))] == []


def test_every_page_leads_to_every_other_and_to_the_search(site: dict[Path, SitePage]) -> None:
    top = next(path for path in site if path.name == "README.html" and path.parent.name != "docs").parent
    told = {path.relative_to(top).as_posix() for path in site if path.relative_to(top).parts[0] == "docs"}
    linked = {link.partition("#")[0] for link in site[top / "README.html"].links}
    assert told - linked == set()
    assert (top / "searchindex.js").is_file()


def test_every_public_name_has_its_entry(site: dict[Path, SitePage]) -> None:
    (page,) = [page for path, page in site.items() if path.name == "python-api.html"]
    entries = {
        anchor.rpartition(".")[2] for anchor in page.anchors if re.fullmatch(r"aftermix(\.api\.work)?\.\w+", anchor)
    }
    assert set(aftermix.__all__) - {"__version__"} == entries
