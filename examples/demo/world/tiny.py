"""A few documents of made-up words, lying where the unpacked packages would lie: for `--tiny`."""

import random
from collections.abc import Iterator
from pathlib import Path

DOCUMENTS = 48
PARAGRAPHS = 8
WORDS = 16
LETTERS = {
    "en": "etaoinshrdlu",
    "ja": "あかさたなはまやらわいし",
    "zh": "的一是不了人我在有他这中",
    "de": "äßöünstrahdie",
}
HELP_LANGUAGES = {"en-US": "en", "ja": "ja", "zh-CN": "zh", "de": "de"}


def write_packages(root: Path) -> Path:
    """Help pages of four languages, Python's documentation and library, and set.mm, each with a little text."""
    for folder, language in HELP_LANGUAGES.items():
        for number, paragraphs in enumerate(_documents(language)):
            page = root / "usr/share/libreoffice/help" / folder / "text" / f"page-{number:02d}.html"
            blocks = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
            body = f'<div id="DisplayArea"><div class="howtoget"><p>Open</p></div>{blocks}</div>'
            _write(page, f'<html><head><meta charset="UTF-8"></head><body>{body}</body></html>')
    for number, paragraphs in enumerate(_documents("en", key="documentation")):
        source = root / "usr/share/doc/python3.11/html/_sources" / f"page-{number:02d}.rst.txt"
        _write(source, "\n\n".join([".. module:: nothing", *paragraphs, ">>> 1 + 1\n2"]))
    for number in range(DOCUMENTS):
        _write(root / "usr/lib/python3.11" / f"module_{number:02d}.py", "\n\n".join(_definitions(number)))
    _write(root / "usr/share/metamath/databases/set.mm", "\n".join(_theorems()))
    return root


def _documents(language: str, *, key: str = "help") -> Iterator[list[str]]:
    for number in range(DOCUMENTS):
        draws = random.Random(f"{key}/{language}/{number}")  # noqa: S311
        yield [" ".join(_words(draws, LETTERS[language], WORDS)) for _ in range(PARAGRAPHS)]


def _words(draws: random.Random, letters: str, count: int) -> list[str]:
    return ["".join(draws.choices(letters, k=draws.randint(3, 7))) for _ in range(count)]


def _definitions(number: int) -> Iterator[str]:
    draws = random.Random(f"code/{number}")  # noqa: S311
    for place in range(PARAGRAPHS):
        name, first, second, third = _words(draws, LETTERS["en"], 4)
        lines = [f"def {name}({first}):", '"""Left out."""', f"{second} = {first} + {place}", f"return {third}"]
        yield "\n    ".join(lines)


def _theorems() -> Iterator[str]:
    """As many as make `DOCUMENTS` documents, every second one with a hypothesis of its own."""
    draws = random.Random("math")  # noqa: S311
    yield "$( Made-up theorems. $)"
    for number in range(12 * DOCUMENTS):
        first, second = (" ".join(draws.choices("abcdefgh", k=12)) for _ in range(2))
        theorem = f"t{number} $p |- ( {first} -> {second} ) $= nothing $."
        yield f"${{ h{number} $e |- {second} $. {theorem} $}}" if number % 2 else theorem


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
