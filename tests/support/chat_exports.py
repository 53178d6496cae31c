"""Conversations with calls of tools and prompts of the system, and the export of mixtures of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.errors import AftermixError
from aftermix.jobs.export.mixture import ExportOptions, export_mixture
from conftest import save_tokenizer
from support.export_world import write_records

TEMPLATE = (
    "{% if tools %}{{ (tools | tojson) + ' ' }}{% endif %}{% for m in messages %}{{ m['role'] + ' ' }}"
    "{% if m['tool_calls'] %}{{ (m['tool_calls'] | tojson) + ' ' }}{% endif %}"
    "{{ (m['content'] or '') + ' ' }}{% endfor %}"
)
Record = dict[str, Any]


def call(name: str, arguments: object) -> Record:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def tool(name: str, *properties: str) -> Record:
    parameters = {"type": "object", "properties": {key: {"type": "string"} for key in properties}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def said(role: str, content: str, **more: object) -> Record:
    return {"role": role, "content": content, **more}


def calling(number: int, key: str = "one", inner: object = "sum") -> Record:
    """A conversation in which a tool is called with the argument `inner` of the name `key`."""
    turns = [said("user", f"sum {number}"), call("even", {key: inner}), said("tool", "one"), said("assistant", "one")]
    return {"messages": turns, "tools": [tool("even", key)]}


def prompted(record: Record) -> Record:
    return {**record, "messages": [said("system", "even"), *record["messages"]]}


def bare(arguments: object) -> Record:
    """A conversation with a call that names its function without the key `function`."""
    asked, _, *behind = calling(0)["messages"]
    called = {"role": "assistant", "content": "", "tool_calls": [{"name": "even", "arguments": arguments}]}
    return {"messages": [asked, called, *behind], "tools": [tool("even", "one")]}


def answered_twice() -> Record:
    record = calling(0)
    return {**record, "messages": [*record["messages"][:2], *[said("tool", "one")] * 2, said("assistant", "one")]}


def talk(**more: object) -> Record:
    """A conversation whose answer has `more` keys."""
    return {"messages": [said("user", "one"), said("assistant", "sum", **more)]}


def plain(number: int) -> Record:
    return {"messages": [said("user", f"even {number}"), said("assistant", "numbers")]}


def export(folder: Path, to: str, sources: dict[str, Any], *, tokens: int = 2000) -> Path:
    """What `aftermix export` writes for a mixture of equal parts of `sources`."""
    if not (folder / "base").exists():
        save_tokenizer(folder / "base", chat_template=TEMPLATE)
    mixture = {"mixture": dict.fromkeys(sources, 1 / len(sources)), "tokens": tokens}
    train = {"datasets": {"m": mixture}, "sources": sources}
    (folder / "train.yaml").write_text(yaml.safe_dump({"base": str(folder / "base"), "train": train}))
    out = folder / f"out {len(list(folder.glob('out *')))}"
    export_mixture(folder / "train.yaml", out, to=to, options=ExportOptions(max_epochs=1e4), log=lambda _: None)
    return out


def refused(folder: Path, to: str, sources: dict[str, Any]) -> str:
    with pytest.raises(AftermixError) as error:
        export(folder, to, sources)
    assert not list(folder.glob("out *"))
    return str(error.value)


def chats(folder: Path, **records: Iterable[Record]) -> dict[str, Any]:
    """Sources of conversations, each a file of JSON lines."""
    return {
        name: {"data": str(write_records(folder / f"{name}.jsonl", rows)), "format": "chat"}
        for name, rows in records.items()
    }


def read_axolotl_entries(out: Path) -> list[dict[str, Any]]:
    """The datasets of an exported `mixture.yaml`."""
    entries: list[dict[str, Any]] = yaml.safe_load((out / "mixture.yaml").read_text())["datasets"]
    return entries


def draw_rows(out: Path) -> list[Record]:
    """The rows that `mixture.py` gives to whoever imports it."""
    return list(run_script(out)["mixture"](seed=0))


def run_script(out: Path) -> dict[str, Any]:
    """All names of an exported `mixture.py`."""
    names: dict[str, Any] = {"__name__": "mixture"}
    exec(compile((out / "mixture.py").read_text(), "mixture.py", "exec"), names)  # noqa: S102 - what we wrote
    return names


def in_lines(rows: Iterable[Record]) -> set[str]:
    """Distinct rows, whatever their order."""
    return {json.dumps(row, sort_keys=True) for row in rows}
