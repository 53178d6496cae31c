"""What axolotl is told of conversations and prompts, what Megatron is told of keys, and texts taken for times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from aftermix.errors import AftermixError
from aftermix.mixture.exports.domain_data import LOSS_KEYS
from aftermix.training.data.conversations.keys import OF_LOSS
from support.chat_exports import (
    bare,
    calling,
    chats,
    export,
    plain,
    prompted,
    read_axolotl_entries,
    refused,
    said,
    talk,
)
from support.export_world import write_records


def test_axolotl_is_told_of_tools_and_of_what_is_learnt(tmp_path: Path) -> None:
    weighed = {
        "messages": [said("user", "one"), said("assistant", "sum", weight=0), said("assistant", "one", weight=1)]
    }
    out = export(tmp_path, "axolotl", chats(tmp_path, calls=[calling(0)] * 50, weighed=[weighed] * 90), tokens=200)
    entries = read_axolotl_entries(out)
    assert entries[0]["field_tools"] == "tools"
    assert entries[1]["message_field_training"] == "weight"
    assert tuple(OF_LOSS) == LOSS_KEYS
    out = export(tmp_path, "axolotl", chats(tmp_path, other=[talk(loss_mask=1)] * 50), tokens=20)
    assert read_axolotl_entries(out)[0]["message_field_training"] == "loss_mask"
    with pytest.raises(AftermixError) as error:
        export(tmp_path, "axolotl", chats(tmp_path, both=[talk(train=True, loss=True)]))
    assert str(error.value).startswith("mixture.both: axolotl takes one of the keys 'train' and 'loss' (")


def test_axolotl_is_told_every_key_of_a_message(tmp_path: Path) -> None:
    """Of unnamed keys it reads those of a variable `message` alone, and the template's is another."""
    named = calling(0)
    named["messages"][2] |= {"name": "even", "tool_call_id": "1"}
    out = export(tmp_path, "axolotl", chats(tmp_path, calls=[named] * 50, talks=[talk(weight=1)] * 90), tokens=200)
    calls, talks = read_axolotl_entries(out)
    keys = ("role", "content", "tool_calls", "name", "tool_call_id")
    assert calls["message_property_mappings"] == {key: key for key in keys}
    assert "message_property_mappings" not in talks


@pytest.mark.parametrize("gap", [{}, {"system": None}, {"system": ""}])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_axolotl_adds_no_prompt_from_a_column_of_which_one_has_none(
    tmp_path: Path, kind: str, gap: dict[str, Any]
) -> None:
    rows = [{**plain(0), "system": "even"}, {**plain(1), **gap}]
    sources = chats(tmp_path, a=rows)
    if kind == "parquet":
        sources["a"]["data"] = str(tmp_path / "a.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), sources["a"]["data"])
    message = (
        "mixture.a: axolotl adds a prompt from the column 'system' to conversations that were counted without one ("
    )
    assert f"{message}{sources['a']['data']}, " in refused(tmp_path, "axolotl", sources)


def test_axolotl_reads_a_column_of_prompts_where_each_conversation_has_one(tmp_path: Path) -> None:
    rows = [{**plain(0), "system": "even"}, {**prompted(plain(1)), "system": ""}]
    out = export(tmp_path, "axolotl", chats(tmp_path, a=rows * 40), tokens=20)
    (entry,) = read_axolotl_entries(out)
    assert (entry["type"], entry["field_messages"], entry["path"]) == (
        "chat_template",
        "messages",
        str(tmp_path / "a.jsonl"),
    )
    assert "field_system" not in entry


def test_axolotl_adds_no_ignored_prompt(tmp_path: Path) -> None:
    sources = chats(tmp_path, a=[{**plain(0), "system": "even"}])
    sources["a"]["ignore_columns"] = ["system"]
    assert "from the column 'system' to conversations" in refused(tmp_path, "axolotl", sources)


def test_axolotl_writes_no_ignored_system_before_a_prompt(tmp_path: Path) -> None:
    place = write_records(tmp_path / "a.jsonl", [{"prompt": "one ", "completion": "sum", "system": "even"}] * 50)
    source = {"data": str(place), "format": "completion", "ignore_columns": ["system"]}
    out = export(tmp_path, "axolotl", {"a": source}, tokens=20)
    assert read_axolotl_entries(out)[0]["type"]["field_system"] == ""


@pytest.mark.parametrize("to", ["trl", "axolotl"])
def test_arguments_as_text_of_bare_calls_are_refused(tmp_path: Path, to: str) -> None:
    assert "arguments of calls" in refused(tmp_path, to, chats(tmp_path, a=[bare('{"one": 1}')]))


@pytest.mark.parametrize("to", ["trl", "axolotl", "llamafactory"])
def test_texts_that_tables_take_for_times_are_refused(tmp_path: Path, to: str) -> None:
    days = [calling(0, inner="2024-01-31"), calling(1, inner="2024-02-01T10:00:00Z")]
    sources = chats(tmp_path, a=days)
    place = f"(messages.tool_calls.function.arguments.one of {tmp_path / 'a.jsonl'})"
    assert f"reads texts that are all dates as times {place}" in refused(tmp_path, to, sources)
    write_records(tmp_path / "b.jsonl", [{"text": "2024-01-31"}, {"text": "2024-02-01"}])
    assert "as times (text of " in refused(tmp_path, to, {"b": {"data": str(tmp_path / "b.jsonl")}})

    # One value that is no date keeps all of them as text, and parquet says what is text.
    mixed = chats(tmp_path, c=[*days, calling(2, inner="one")] * 30)
    export(tmp_path, to, mixed, tokens=20)
    parquet.write_table(pyarrow.Table.from_pylist(days * 30), tmp_path / "a.parquet")
    export(tmp_path, to, {"a": {"data": str(tmp_path / "a.parquet"), "format": "chat"}}, tokens=20)


def test_megatron_is_told_the_key_that_its_tool_appends(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"body": "one sum"}])
    sources = {"a": {"data": str(tmp_path / "a.jsonl"), "text_field": "body"}, **chats(tmp_path, talks=[plain(0)])}
    out = export(tmp_path, "megatron", sources, tokens=20)
    assert (out / "data_args.txt").read_text().split()[1::2] == ["a_body_document", "talks_text_document"]
    told = (out / "arguments.sh").read_text()
    assert "--json-keys KEY --append-eod\n# KEY: body, text\n" in told
    assert "# talks: its texts are conversations as the base's chat template writes them\n" in told


@pytest.mark.parametrize("key", ["my text", "text\t", " "])
def test_megatron_refuses_a_key_that_the_blend_would_split(tmp_path: Path, key: str) -> None:
    write_records(tmp_path / "a.jsonl", [{key: "one sum"}])
    found = refused(tmp_path, "megatron", {"a": {"data": str(tmp_path / "a.jsonl"), "text_field": key}})
    assert found.startswith("mixture.a: the blend is split at white space, and its prefix ends in the key '")
    assert found.endswith("Rename the field of the text, and its `text_field`.")
