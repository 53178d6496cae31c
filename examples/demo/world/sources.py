"""Fetch the source packages by name and read their documents.

A document is a name and its paragraphs. Nothing here decides what is trained on and what is held out.
"""

import ast
import html
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from lxml import html as lxml_html

Documents = dict[str, list[str]]  # name of the document -> its paragraphs

PACKAGES = (
    "libreoffice-help-en-us",
    "libreoffice-help-ja",
    "libreoffice-help-zh-cn",
    "metamath-databases",
    "python3.11-doc",
    "libpython3.11-stdlib",
    "libpython3.11-minimal",
)
PUZZLE_PACKAGE = "reasoning-gym==0.1.25"
THEOREMS_PER_DOCUMENT = 12
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def fetch(folder: Path) -> Path:
    """Download every source package of `PACKAGES` that is missing, unpack all; return the unpacked root."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not list(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        archive = sorted(folder.glob(f"{package}_*.deb"))[-1]
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "root")], check=True)
    return folder / "root"


def read_all(root: Path) -> dict[str, Documents]:
    """The documents of every domain, in a fixed order."""
    return {
        "en": {**help_pages(root, "en-US"), **python_documentation(root)},
        "ja": help_pages(root, "ja", only=CJK),
        "zh": help_pages(root, "zh-CN", only=CJK),
        "math": theorems(root),
        "code": definitions(root),
    }


def read_puzzles(packages: Path, *, tiny: bool = False) -> dict[str, Documents]:
    """The documents of every domain of puzzles, none of which the base has seen; made once, kept in `packages`."""
    kept = packages / "puzzles.json"
    if not kept.is_file():
        if not tiny and not (packages / "python").is_dir():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages / "python")]
            subprocess.run([*pip, PUZZLE_PACKAGE], check=True)
        environment = os.environ | {"PYTHONPATH": str(packages / "python")}
        program = [sys.executable, str(Path(__file__).with_name("puzzles.py")), str(kept)]
        subprocess.run([*program, *(["--tiny"] if tiny else [])], env=environment, check=True)
    found: dict[str, Documents] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def help_pages(root: Path, language: str, *, only: re.Pattern[str] | None = None) -> Documents:
    """LibreOffice help, a page a document; `only` keeps the paragraphs it finds (translated ones)."""
    folder = root / "usr/share/libreoffice/help" / language / "text"
    pages: Documents = {}
    for path in sorted(folder.rglob("*.html")):
        body = lxml_html.fromstring(path.read_bytes()).get_element_by_id("DisplayArea", None)
        if body is None:
            continue
        for navigation in body.find_class("howtoget"):
            navigation.drop_tree()
        blocks = (_squeeze(block.text_content()) for block in body.iter("h1", "h2", "h3", "h4", "p", "pre"))
        pages[f"help/{path.relative_to(folder).with_suffix('')}"] = [
            block for block in blocks if len(block) > 8 and (only is None or only.search(block))
        ]
    return pages


def python_documentation(root: Path) -> Documents:
    """The prose of Python's documentation, without directives and code samples."""
    folder = root / "usr/share/doc/python3.11/html/_sources"
    documents: Documents = {}
    for path in sorted(folder.rglob("*.rst.txt")):
        blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))
        prose = (_plain(block) for block in blocks if ">>>" not in block and not block.lstrip().startswith(".."))
        documents[f"python/{path.relative_to(folder)}"] = [block for block in prose if len(block) > 80]
    return documents


def theorems(root: Path) -> Documents:
    """The statements of set.mm without proofs and comments, `label : hypotheses => assertion`, some a document."""
    source = (root / "usr/share/metamath/databases/set.mm").read_text(encoding="ascii")
    statements = list(_statements(re.sub(r"\$\(.*?\$\)", " ", source, flags=re.DOTALL).split()))
    return {
        f"set.mm/{start:05d}": statements[start : start + THEOREMS_PER_DOCUMENT]
        for start in range(0, len(statements), THEOREMS_PER_DOCUMENT)
    }


def _statements(words: list[str]) -> Iterator[str]:
    scopes: list[list[str]] = [[]]  # the essential hypotheses of each open block
    at = 0
    while at < len(words):
        word = words[at]
        if word == "${":
            scopes.append([])
        elif word == "$}":
            scopes.pop()
        elif word in ("$e", "$p", "$a", "$f", "$c", "$v", "$d"):
            end = at + 1
            while words[end] not in ("$.", "$="):
                end += 1
            formula = " ".join(words[at + 1 : end])
            if word == "$e":
                scopes[-1].append(formula)
            elif word == "$p" and formula.startswith("|-"):
                hypotheses = " & ".join(hypothesis for scope in scopes for hypothesis in scope)
                yield f"{words[at - 1]} : {hypotheses} => {formula}" if hypotheses else f"{words[at - 1]} : {formula}"
            at = words.index("$.", end)
        at += 1


def definitions(root: Path) -> Documents:
    """Python's standard library without docstrings and comments, a module a document, a definition a paragraph."""
    folder = root / "usr/lib/python3.11"
    documents: Documents = {}
    for path in sorted(folder.rglob("*.py")):
        try:
            with warnings.catch_warnings(action="ignore"):
                module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        documents[f"stdlib/{path.relative_to(folder)}"] = [
            ast.unparse(_without_docstrings(node)) for node in module.body if isinstance(node, DEFINITION)
        ]
    return documents


def _without_docstrings(tree: ast.stmt) -> ast.stmt:
    for node in ast.walk(tree):
        if isinstance(node, DEFINITION) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(text)).strip()


def _plain(block: str) -> str:
    text = re.sub(r":[a-z:]+:`~?([^`<]*)[^`]*`", r"\1", block)
    return _squeeze(re.sub(r"`+|\*+", "", text))
