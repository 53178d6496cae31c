"""Documents of every domain: those of the demo's world, and two domains that its base has never seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from studies.world.demo import PACKAGES, Documents, help_pages, read_all

GENERAL = "en"
DOMAINS = ("ja", "zh", "math", "code", "de", "problems")
COMMITTED = ("ja", "zh", "math", "code")
"""Domains whose training text lies in the repository."""
GERMAN = "libreoffice-help-de"
PROBLEMS = "reasoning-gym==0.1.25"


def fetch(packages: Path) -> Path:
    """Download what is missing, unpack it; the unpacked root. Needs `apt-get download`, `dpkg-deb` and pip."""
    packages.mkdir(parents=True, exist_ok=True)
    for package in (*PACKAGES, GERMAN):
        if not list(packages.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=packages, check=True)
        archive = sorted(packages.glob(f"{package}_*.deb"))[-1]
        subprocess.run(["dpkg-deb", "-x", str(archive), str(packages / "root")], check=True)
    if not (packages / "python").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages / "python")]
        subprocess.run([*pip, PROBLEMS], check=True)
    return packages / "root"


def read_documents(packages: Path, *, tiny: bool = False) -> dict[str, Documents]:
    """The documents of the general domain and of every expert domain."""
    root = packages / "root"
    documents = read_all(root)
    return {**documents, "de": _german(root, documents[GENERAL]), "problems": word_problems(packages, tiny=tiny)}


def _german(root: Path, english: Documents) -> Documents:
    """LibreOffice help in German, without the paragraphs that nobody has translated."""
    untranslated = {paragraph for paragraphs in english.values() for paragraph in paragraphs}
    pages = help_pages(root, "de")
    return {name: [text for text in paragraphs if text not in untranslated] for name, paragraphs in pages.items()}


def word_problems(packages: Path, *, tiny: bool = False) -> Documents:
    """Problems in words with their answers, a few a document, made by the package's seeded generators."""
    kept = packages / "problems.json"
    if not kept.is_file():
        environment = os.environ | {"PYTHONPATH": str(packages / "python")}
        command = [sys.executable, str(Path(__file__).with_name("problems.py")), str(kept)]
        subprocess.run([*command, *(["--tiny"] if tiny else [])], env=environment, check=True)
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found
