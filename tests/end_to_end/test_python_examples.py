"""The examples of the Python pages and of the docstrings of public names run as they are written, on a tiny pool."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

import aftermix
from aftermix.api import work

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = ("python.md", "notebooks.md")
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LITERAL = re.compile(r"::\n\n((?:    .*\n|\n)+)")
SHOWN: tuple[Callable[..., Any], ...] = (
    aftermix.Merged,
    work.search,
    aftermix.open_run,
    aftermix.Run,
    work.evaluate,
    work.mixture,
    work.train,
    aftermix.Study,
    aftermix.Config,
)


def my_score(model: Any, tokenizer: Any = None, pair: int = 0) -> float:
    """A stand-in for what a reader measures: a number of the model's outputs at one position."""
    with torch.inference_mode():
        outputs = model(torch.arange(32)[None])
    values = outputs.logits if tokenizer is None else outputs.last_hidden_state
    return float(values[0, pair].float().abs().mean())


@pytest.fixture
def names(tmp_path: Path, family: Mapping[str, Path], tasks: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the examples take for granted, in a folder that has the models, tasks and texts of theirs."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(family["base"])
    (tmp_path / "experts").mkdir()
    for name, expert in (("ja", "a"), ("math", "b")):
        (tmp_path / "experts" / name).symlink_to(family[expert])
    shutil.copytree(tasks, tmp_path / "tasks")
    for ending in ("yaml", "jsonl"):
        text = (tasks / f"colours.{ending}").read_text()
        (tmp_path / "tasks" / f"quiz.{ending}").write_text(text.replace("colours", "quiz"))
    (tmp_path / "texts").mkdir()
    lines = [json.dumps({"text": f"the sum of the numbers {number} is even"}) for number in range(400)]
    (tmp_path / "texts" / "code.jsonl").write_text("\n".join(lines))

    monkeypatch.chdir(tmp_path)
    pairs = {f"pair {number}": number for number in range(30)}
    return {"aftermix": aftermix, "my_score": my_score, "PAIRS": pairs}


def test_the_examples_of_the_pages_run(names: dict[str, Any]) -> None:
    blocks = [block for page in PAGES for block in FENCE.findall((DOCS / page).read_text(encoding="utf-8"))]
    assert len(blocks) >= 5
    for block in blocks:
        exec(block, names)  # noqa: S102 - our own page

    assert names["run"].best is not None
    assert 4 <= len(names["run"].trials) <= 8  # it ends where no merge can be told to be better
    assert Path("models/found/model.safetensors").is_file()


@pytest.mark.whole
def test_the_examples_of_the_docstrings_run(names: dict[str, Any]) -> None:
    names["pool"] = aftermix.Pool("models/base", {"ja": "experts/ja", "math": "experts/math"})
    for name in SHOWN:
        blocks = LITERAL.findall(inspect.getdoc(name) + "\n")
        assert blocks, name
        for block in blocks:
            exec(dedent(block), names)  # noqa: S102 - our own docstring
    assert Path("experts/trained/code/model.safetensors").is_file()
    assert Path("models/merged/model.safetensors").is_file()


def test_every_public_name_has_an_example() -> None:
    called = {"search": work.search, "mixture": work.mixture}
    for name in set(aftermix.__all__) - {"__version__"}:
        text = inspect.getdoc(called.get(name) or getattr(aftermix, name)) or ""
        assert ">>> " in text or LITERAL.search(text + "\n"), name
