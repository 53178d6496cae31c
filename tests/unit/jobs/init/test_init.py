"""The first file: it loads once tasks are named, and says what is in the folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.init.command import init
from aftermix.jobs.init.found_models import choose_name
from conftest import run_cli

Family = Mapping[str, Path]


@pytest.fixture
def folder(tmp_path: Path, family: Family) -> Path:
    """A working folder: base, an expert with a record, an instructed model, one with a template alone."""
    for name, source in (("base", "base"), ("base-ja", "a"), ("base-it", "b"), ("talker", "c")):
        shutil.copytree(family[source], tmp_path / "m" / name)
    (tmp_path / "m" / "base-ja" / "train.json").write_text(json.dumps({"tokens": 5000}))
    settings = tmp_path / "m" / "talker" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": "{{ messages }}"}))
    for name in ("base", "base-ja", "base-it"):
        (tmp_path / "m" / name / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "b.yaml").write_text('task: "words"  # ours\nprocess_docs: !function x.y\n')
    (tmp_path / "tasks" / "a.yaml").write_text("group: none\n")
    return tmp_path


def write_first_file(folder: Path) -> str:
    models = [str(folder / "m" / name) for name in ("base", "base-ja", "base-it", "talker")]
    init(models[0], models[1:], folder / "file.yaml")
    return (folder / "file.yaml").read_text()


def test_the_file_loads_once_tasks_are_named(folder: Path) -> None:
    text = write_first_file(folder)
    assert "base: m/base " in text
    (folder / "file.yaml").write_text(text.replace("tasks: []", "tasks: [words]"))
    config = load_config(folder / "file.yaml")
    assert config.base == str(folder / "m" / "base")
    assert {name: (vector.role, vector.tokens) for name, vector in config.vectors.items()} == {
        "ja": ("expert", 5000),
        "it": ("instruction", None),
        "talker": ("instruction", None),
    }
    assert config.evaluate is not None
    assert config.evaluate.include_path == str(folder / "tasks")


def test_comments_say_why(folder: Path) -> None:
    text = write_first_file(folder)
    assert "# local: words; and those of" in text
    assert "# its name says so; it carries no data" in text
    assert "# it has a chat template, and the base has none; it carries no data" in text
    assert "# it was trained on, as its train.json says" in text
    assert "# LlamaForCausalLM, 0." in text


def test_without_tasks_the_loader_says_what_is_missing(folder: Path) -> None:
    write_first_file(folder)
    with pytest.raises(AftermixError, match=r"evaluate\.tasks: expected at least 1 of them, found 0"):
        load_config(folder / "file.yaml")


def test_an_existing_file_and_missing_models_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_first_file(folder)
    before = (folder / "file.yaml").read_text()
    assert run_cli("init", folder / "m/base", folder / "m/base-ja", "-o", folder / "file.yaml") == 2
    assert "file.yaml: exists. Name a new file with -o" in capsys.readouterr().err
    assert (folder / "file.yaml").read_text() == before

    assert run_cli("init", folder / "m/base", folder / "m/no", folder / "m/none", "-o", folder / "new.yaml") == 2
    told = capsys.readouterr().err
    assert "m/no" in told
    assert "m/none" in told
    assert not (folder / "new.yaml").exists()


@pytest.mark.parametrize(
    ("path", "base", "name"),
    [
        ("x/Llama-3-8B-ja", "y/Llama-3-8B", "ja"),
        ("org/Qwen3-0.6B", "org/Qwen3-0.6B-Base", "Qwen3-0.6B"),
        ("x/日本語", "base", "expert"),
        ("x/my expert (v2)", "base", "my-expert-v2"),
        ("x/base", "y/base", "base"),
    ],
)
def test_names(path: str, base: str, name: str) -> None:
    assert choose_name(path, base, set()) == name
    assert choose_name(path, base, {name}) == f"{name}-2"
