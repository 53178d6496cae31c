"""`merge.chat_template`: which template a result gets, and from where in the models' folders it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aftermix.checkpoints.companions.chat_template import choose_chat_template, read_chat_template, set_chat_template
from aftermix.config import MergeConfig


def folder_with(parent: Path, name: str, *, settings: object = None, file: str | None = None) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({} if settings is None else {"chat_template": settings}))
    if file is not None:
        (folder / "chat_template.jinja").write_text(file)
    return folder


def test_auto_is_the_template_that_most_models_have(tmp_path: Path) -> None:
    a = folder_with(tmp_path, "a", settings="{{ one }}")
    b = folder_with(tmp_path, "b", file="{{ two }}\n", settings="{{ other }}")
    c = folder_with(
        tmp_path, "c", settings=[{"name": "tool", "template": "x"}, {"name": "default", "template": "{{ two }}"}]
    )
    none = folder_with(tmp_path, "none")
    assert [read_chat_template(folder) for folder in (a, b, c, none)] == ["{{ one }}", "{{ two }}\n", "{{ two }}", None]
    assert choose_chat_template("auto", [a, b, c, none]) == "{{ two }}"
    assert choose_chat_template("auto", [a, b]) == "{{ one }}"
    assert choose_chat_template("auto", [none]) is None
    assert choose_chat_template("{{ own }}", [a, b]) == "{{ own }}"


def test_a_template_takes_the_place_of_every_other() -> None:
    settings = json.dumps({"chat_template": "old", "eos_token": "</s>"}).encode()
    files = {"tokenizer_config.json": settings, "chat_template.json": b"{}", "config.json": b"{}"}
    set_chat_template(files, "{{ new }}")
    assert json.loads(files.pop("tokenizer_config.json")) == {"eos_token": "</s>"}
    assert files == {"chat_template.jinja": b"{{ new }}", "config.json": b"{}"}
    bare = {"config.json": b"{}"}
    set_chat_template(bare, "{{ new }}")
    assert bare == {"config.json": b"{}"}


def test_what_is_no_template_is_refused() -> None:
    with pytest.raises(ValueError, match="expected `auto` or a template"):
        MergeConfig(chat_template="chatml")
