"""Ends of turns are stop tokens of a result, and tokens have rows: what does not hold is mended or told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.checkpoints.companions.stop_tokens import find_missing_stops, find_turn_ends, read_stop_tokens
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Copy = Callable[[str], Path]
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{% endfor %}"


def write_tokenizer(folder: Path, special: Mapping[str, int], template: str | None, *, eos: str = "</s>") -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"model": {"vocab": {"</s>": 1}}}
    added = [{"id": row, "content": token, "special": not token.startswith("</th")} for token, row in special.items()]
    path.write_text(json.dumps({**content, "added_tokens": [*content.get("added_tokens", []), *added]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "chat_template": template}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)


TEMPLATES: dict[str, tuple[dict[str, int], str | None, str, set[str]]] = {
    "ChatML": ({"<|im_start|>": 5, "<|im_end|>": 6, "<|endoftext|>": 7}, CHATML, "<|endoftext|>", {"<|im_end|>"}),
    "Llama 3": (
        {"<|start_header_id|>": 5, "<|end_header_id|>": 6, "<|eot_id|>": 7, "<|end_of_text|>": 8},
        "<|start_header_id|>user<|end_header_id|>{{ m.content }}<|eot_id|>",
        "<|end_of_text|>",
        {"<|eot_id|>"},
    ),
    "Gemma": (
        {"<start_of_turn>": 5, "<end_of_turn>": 6},
        "<start_of_turn>{{ m }}<end_of_turn>",
        "<eos>",
        {"<end_of_turn>"},
    ),
    "Llama 2": ({}, "[INST] {{ m.content }} [/INST] {{ a }} {{ eos_token }}", "</s>", {"</s>"}),
    "Mistral": ({"</s>": 2}, "[INST]{{ m }}[/INST]{{ a }}</s>", "</s>", {"</s>"}),
    "Qwen-VL": (
        {"<|im_end|>": 6, "<|vision_end|>": 7, "</think>": 8},
        CHATML + "<|vision_start|><|vision_end|></think>",
        "<|im_end|>",
        {"<|im_end|>"},
    ),
    "several messages a turn": (
        {"<|end|>": 5, "<|return|>": 6, "<|channel|>": 7},
        "<|channel|>{{ m }}<|end|>",
        "<|return|>",
        set(),
    ),
    "none": ({"<|im_end|>": 6}, None, "</s>", set()),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_the_end_of_a_turn_is_found_in_the_template(case: str, tmp_path: Path) -> None:
    special, template, eos, ends = TEMPLATES[case]
    write_tokenizer(tmp_path / "m", special, template, eos=eos)
    assert set(find_turn_ends(tmp_path / "m")) == ends


def test_stops_are_those_of_generation_settings_or_else_of_the_configuration(tmp_path: Path) -> None:
    assert read_stop_tokens(tmp_path, {"text_config": {"eos_token_id": [1, 106]}}) == (1, 106)
    write_tokenizer(tmp_path, {"<|im_end|>": 6}, CHATML)
    assert find_missing_stops(tmp_path, {"eos_token_id": 1}) == {"<|im_end|>": 6}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 6]}')
    assert read_stop_tokens(tmp_path, {}) == (1, 6)
    assert find_missing_stops(tmp_path, {"eos_token_id": 1}) == {}


def make_config(base: Path, expert: Path, *, role: str = "instruction") -> Config:
    return Config(base=str(base), vectors={"b": VectorConfig(model=str(expert), weight=0.5, role=role)})


SPECIAL = {"<|im_start|>": 300, "<|im_end|>": 301}


@pytest.mark.parametrize("settings", ["expert", "base", None])
def test_a_result_stops_where_its_template_ends_a_turn(settings: str | None, copied: Copy, tmp_path: Path) -> None:
    base, expert = copied("base"), copied("b")
    for folder in (base, expert):
        (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(base, SPECIAL, None)
    write_tokenizer(expert, SPECIAL, CHATML)
    owner = {"expert": expert, "base": base}.get(str(settings))
    if owner is not None:
        (owner / "generation_config.json").write_text('{"temperature": 0.7, "eos_token_id": 1}')

    lines: list[str] = []
    out = merge(make_config(base, expert), tmp_path / "out", log=lines.append)
    written = json.loads((out / "generation_config.json").read_text())
    assert written == {**({"temperature": 0.7} if owner else {}), "eos_token_id": [1, 301]}
    ends = "the chat template ends turns with <|im_end|> (301), at which nothing stops by generation_config.json"
    assert f"{ends}: added as stop tokens" in lines

    # Settings that stop there are the model's own bytes, and so are those of a base alone, with a note.
    content = b'{"eos_token_id": [301, 1]}'
    (expert / "generation_config.json").write_bytes(content)
    again = merge(make_config(base, expert), tmp_path / "again")
    assert (again / "generation_config.json").read_bytes() == content
    if owner is base:
        write_tokenizer(base, SPECIAL, CHATML)
        config = make_config(base, expert, role="expert")
        alone = merge(config, tmp_path / "alone")
        assert (alone / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
        assert any(ends in str(note) for note in doctor(config).notes)


def test_the_template_that_a_recipe_gives_is_the_one_that_counts(copied: Copy, tmp_path: Path) -> None:
    base, expert = copied("base"), copied("b")
    for folder in (base, expert):
        write_tokenizer(folder, SPECIAL, None)
        (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    config = make_config(base, expert, role="expert")
    config = config.model_copy(update={"merge": MergeConfig(chat_template=CHATML)})
    out = merge(config, tmp_path / "out")
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [1, 301]}


def test_tokens_and_numbers_without_rows_are_told(copied: Copy) -> None:
    base, expert = copied("base"), copied("b")
    for folder in (base, expert):
        write_tokenizer(folder, {"<far>": 320, "<further>": 321}, None)
    (base / "generation_config.json").write_text('{"eos_token_id": 1, "pad_token_id": 400}')
    notes = [str(note) for note in doctor(make_config(base, expert)).notes]
    assert any("the tokenizer of the base has tokens without a row, '<far>' (320) and 1 more" in note for note in notes)
    assert any("the base has pad_token_id = 400; there are 320 rows" in note for note in notes)
